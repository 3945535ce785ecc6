//! What is read from the head of an answer before the SDK does: it takes a date of another form
//! than HTTP's for a broken answer, and tells neither the status nor what becomes of the connection.

use std::sync::Arc;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use parking_lot::Mutex;

use super::document::seconds;

/// Put into a request, and read after its answer has come.
#[derive(Clone, Default, Debug)]
pub(super) struct TakeNotes(Arc<Mutex<Notes>>);

/// The head of an answer.
#[derive(Clone, Default, Debug)]
pub(super) struct Notes {
    /// 0 where none has come.
    pub(super) status: u16,
    pub(super) closes: bool,
    pub(super) modified: Modified,
}

/// Last-Modified.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Modified {
    #[default]
    Missing,
    /// Seconds since 1970, written as HTTP wants it.
    Http(i64),
    /// The same, written in another way.
    Otherwise(i64),
}

impl Modified {
    /// A date that nobody understands is as good as none.
    fn parse(text: &str) -> Self {
        // A fraction is kept by the SDK's parser, and dropped here.
        let http = DateTime::from_str(text, DateTimeFormat::HttpDate);
        match (http, seconds(text)) {
            (Ok(date), _) => Self::Http(date.secs()),
            (Err(_), Some(seconds)) => Self::Otherwise(seconds),
            (Err(_), None) => Self::Missing,
        }
    }
}

impl TakeNotes {
    pub(super) fn taken(&self) -> Notes {
        self.0.lock().clone()
    }
}

impl Intercept for TakeNotes {
    fn name(&self) -> &'static str {
        "TakeNotes"
    }

    fn modify_before_deserialization(
        &self,
        ctx: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = ctx.response_mut();
        let status = answer.status().as_u16();
        let headers = answer.headers_mut();
        let modified = headers.remove("last-modified");
        let closes =
            headers.get("connection").is_some_and(|word| word.eq_ignore_ascii_case("close"));
        let modified = modified.as_deref().map_or(Modified::Missing, Modified::parse);
        *self.0.lock() = Notes { status, closes, modified };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_the_forms_that_servers_write() {
        for (text, modified) in [
            ("Wed, 21 Oct 2015 07:28:00 GMT", Modified::Http(1_445_412_480)),
            ("Wed, 21 Oct 2015 07:28:00.750 GMT", Modified::Http(1_445_412_480)),
            ("2015-10-21T07:28:00.750Z", Modified::Otherwise(1_445_412_480)),
            ("2015-10-21T09:28:00+02:00", Modified::Otherwise(1_445_412_480)),
            ("", Modified::Missing),
            ("yesterday", Modified::Missing),
        ] {
            assert_eq!(Modified::parse(text), modified, "{text}");
        }
    }
}
