//! Why a connection failed, from what the HTTP client, the resolver and rustls say of it.

use std::error::Error;
use std::io;

use crate::error::{Cause, one_line};

/// Whether the connection rather than the request was at fault.
pub(super) fn is_transport(err: &(dyn Error + 'static)) -> bool {
    causes(err).any(|cause| {
        cause.is::<io::Error>() || cause.is::<rustls::Error>() || {
            let text = cause.to_string();
            text.contains("connection") || text.contains("message completed")
        }
    })
}

/// What of a failed connection a person could set right. Resolver, HTTP and proxy have no types for
/// it that we could name, only words, which tests/failures.rs holds them to.
pub(super) fn transport_cause(err: &(dyn Error + 'static)) -> Option<Cause> {
    match find::<rustls::Error>(err) {
        Some(rustls::Error::InvalidCertificate(_)) => return Some(Cause::Certificate),
        Some(rustls::Error::InvalidMessage(_)) => return Some(Cause::NotTls),
        _ => {}
    }
    let words = chain(err);
    for (part, cause) in [
        ("dns error", Cause::NotResolved),
        ("tunnel error: unsuccessful", Cause::Proxy),
        ("tunnel error: proxy authorization", Cause::Proxy),
        ("invalid HTTP", Cause::NotHttp),
        // A greeting before anything was asked.
        ("unexpected message", Cause::NotHttp),
        ("message completed", Cause::Closed),
        ("handshake eof", Cause::Closed),
    ] {
        if words.contains(part) {
            return Some(cause);
        }
    }
    let kind = causes(err).find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match kind? {
        io::ErrorKind::ConnectionRefused => Some(Cause::Refused),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => Some(Cause::Closed),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Some(Cause::NoRoute),
        _ => None,
    }
}

/// Why a connection failed, in words.
pub(super) fn transport(err: &(dyn Error + 'static)) -> String {
    let words = || one_line(chain(err).trim_start_matches("other: "));
    match transport_cause(err) {
        Some(Cause::Certificate) => {
            let reason = find::<rustls::Error>(err).map(certificate_reason).unwrap_or_default();
            format!(
                "its TLS certificate is not accepted ({reason}); AWS_CA_BUNDLE names a file of own \
                 roots"
            )
        }
        Some(Cause::NotResolved) => match words().split_once("dns error") {
            Some((_, reason)) => {
                let reason = reason.trim_start_matches(": ");
                let reason = reason.trim_start_matches("failed to lookup address information: ");
                format!("its name is not resolved ({reason})")
            }
            None => "its name is not resolved".to_owned(),
        },
        Some(Cause::Refused) => "connection refused".to_owned(),
        Some(Cause::Closed) => "the connection was closed without an answer".to_owned(),
        Some(Cause::NoRoute) => "no route to it".to_owned(),
        Some(Cause::NotTls) => "what it answers is not TLS".to_owned(),
        Some(Cause::NotHttp) => "what it answers is not HTTP".to_owned(),
        Some(Cause::Proxy) => match words().split_once("tunnel error") {
            Some((_, reason)) => {
                format!("the proxy does not connect ({})", reason.trim_start_matches(": "))
            }
            None => "the proxy does not connect".to_owned(),
        },
        _ => words(),
    }
}

/// rustls says it for programmers.
fn certificate_reason(err: &rustls::Error) -> String {
    use rustls::CertificateError as Reason;
    let rustls::Error::InvalidCertificate(reason) = err else { return one_line(&err.to_string()) };
    match reason {
        Reason::UnknownIssuer | Reason::UnhandledCriticalExtension => {
            "it is not signed by an authority that is trusted here".to_owned()
        }
        Reason::Expired | Reason::ExpiredContext { .. } => "it has expired".to_owned(),
        Reason::NotValidYet | Reason::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        Reason::NotValidForName | Reason::NotValidForNameContext { .. } => {
            "it is of another name".to_owned()
        }
        Reason::Revoked => "it was revoked".to_owned(),
        other => one_line(&other.to_string()),
    }
}

/// The error and its causes in one line, without repetition.
pub(super) fn chain(err: &(dyn Error + 'static)) -> String {
    let mut words = String::new();
    for cause in causes(err) {
        let text = cause.to_string();
        if !words.contains(&text) {
            let separator = if words.is_empty() { "" } else { ": " };
            words = format!("{words}{separator}{text}");
        }
    }
    words
}

pub(super) fn find<'a, T: Error + 'static>(err: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(err).find_map(|cause| cause.downcast_ref())
}

/// `err` and what lies behind it. An `io::Error` hides its payload from `source`.
fn causes<'a>(err: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(err), |&err| match err.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => err.source(),
    })
}
