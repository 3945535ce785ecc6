//! Listings: which keys and common prefixes make a page, and the page as XML.
//!
//! The XML is written here rather than by s3s: a page of 1,000 keys costs a fraction of a
//! millisecond, so that a benchmark of listings measures the client.
//!
//! Order: an item is a key or a common prefix, and items come in the order of their bytes. A page
//! begins with the first item after the starting point, so a common prefix at or before the
//! starting point is not given again even when keys below it follow (Ceph and moto do the same).

use std::cmp::Ordering;
use std::fmt::Write;
use std::ops::Bound;

use s3s::{S3Result, s3_error};

use super::bucket::{Object, Objects};
use super::call::Call;
use super::content::mix;
use super::dates;
use super::quirks::{Quirk, Quirks};

const KEYS_MAX: usize = 1_000;
const OWNER: &str = "<Owner><ID>111122223333</ID><DisplayName>simulator</DisplayName></Owner>";

/// The question. `after` is the resolved starting point: an item.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pub(crate) prefix: String,
    pub(crate) delimiter: Option<String>,
    pub(crate) after: String,
    pub(crate) keys_max: usize,
}

/// The answer. Invariant: `n_items` never exceeds `keys_max`.
#[derive(Debug, Default)]
pub(crate) struct Page<'a> {
    pub(crate) contents: Vec<(&'a str, &'a Object)>,
    pub(crate) prefixes: Vec<&'a str>,
    /// The last item of this page, if more follow.
    pub(crate) next: Option<&'a str>,
}

impl Page<'_> {
    pub(crate) fn n_items(&self) -> usize {
        self.contents.len() + self.prefixes.len()
    }
}

/// Goes along the keys, and after a common prefix seeks to its end: a page costs what it shows.
pub(crate) fn page<'a>(objects: &'a Objects, query: &Query) -> Page<'a> {
    let mut page = Page::default();
    if query.keys_max == 0 {
        return page;
    }
    let mut from = start(query);
    let mut last = None;
    loop {
        let mut seek = None;
        for (key, object) in objects.range::<[u8], _>((as_slice(&from), Bound::Unbounded)) {
            let key = std::str::from_utf8(key).expect("keys come from strings");
            if !key.starts_with(&query.prefix) {
                return page;
            }
            let common = common_prefix(key, query);
            if let Some(seen) = common.filter(|common| *common <= query.after.as_str()) {
                seek = Some(seen);
                break;
            }
            if page.n_items() == query.keys_max {
                page.next = last;
                return page;
            }
            last = Some(common.unwrap_or(key));
            if let Some(common) = common {
                page.prefixes.push(common);
                seek = Some(common);
                break;
            }
            page.contents.push((key, object));
        }
        let Some(common) = seek else { return page };
        from = successor(common);
    }
}

/// The order of items on servers that have another than S3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Directory by directory: `/` comes before every other byte.
    Tree,
    /// As good as none, but the same each time.
    Scattered,
}

impl Order {
    fn compare(self, a: &str, b: &str) -> Ordering {
        let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
        let scattered =
            |item: &str| (item.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte))), item.len());
        match self {
            Self::Tree => a.bytes().map(rank).cmp(b.bytes().map(rank)),
            Self::Scattered => scattered(a).cmp(&scattered(b)).then_with(|| a.cmp(b)),
        }
    }
}

/// As [`page`], in another order: all items are laid out for each page.
pub(crate) fn page_in<'a>(objects: &'a Objects, query: &Query, order: Order) -> Page<'a> {
    let all = page(objects, &Query { after: String::new(), keys_max: usize::MAX, ..query.clone() });
    let objects = all.contents.into_iter().map(|(key, object)| (key, Some(object)));
    let mut items: Vec<_> =
        objects.chain(all.prefixes.into_iter().map(|item| (item, None))).collect();
    items.retain(|(item, _)| {
        query.after.is_empty() || order.compare(item, &query.after) == Ordering::Greater
    });
    items.sort_by(|(a, _), (b, _)| order.compare(a, b));
    let n_items = items.len();
    items.truncate(query.keys_max);
    let more = n_items > items.len();
    let next = items.last().map(|(item, _)| *item).filter(|_| more);
    let mut page = Page { next, ..Page::default() };
    for (item, object) in items {
        match object {
            Some(object) => page.contents.push((item, object)),
            None => page.prefixes.push(item),
        }
    }
    page
}

/// A listing as it was asked for: the query, and what the answer repeats of the request.
pub(crate) struct Listing<'a> {
    call: &'a Call,
    query: Query,
    /// `ListObjectsV2`; the older call has markers instead of tokens.
    newer: bool,
    url_encoding: bool,
    with_owner: bool,
    quirks: Quirks,
}

impl<'a> Listing<'a> {
    pub(crate) fn parse(call: &'a Call, quirks: Quirks) -> S3Result<Self> {
        let newer = call.parameter("list-type") == Some("2");
        if newer && quirks.has(Quirk::RefusesV2) {
            return Err(s3_error!(
                NotImplemented,
                "A parameter you provided implies functionality that is not implemented"
            ));
        }
        let newer = newer && !quirks.has(Quirk::ListsV1);
        let url_encoding = match call.parameter("encoding-type") {
            None | Some("") => false,
            Some(_) if quirks.has(Quirk::IgnoresEncodingType) => false,
            Some(_) if quirks.has(Quirk::RefusesEncodingType) => {
                return Err(s3_error!(InvalidArgument, "encoding-type is not supported"));
            }
            Some("url") => true,
            Some(_) => {
                return Err(s3_error!(
                    InvalidArgument,
                    "Invalid Encoding Method specified in Request"
                ));
            }
        };
        let keys_max = match call.parameter("max-keys").map(str::parse::<u32>) {
            None => KEYS_MAX,
            Some(Ok(number)) => usize::try_from(number).unwrap_or(KEYS_MAX).min(KEYS_MAX),
            Some(Err(_)) => {
                return Err(s3_error!(
                    InvalidArgument,
                    "Argument max-keys must be a non-negative integer"
                ));
            }
        };
        let after = match call.parameter("continuation-token") {
            Some(token) if newer => from_token(token).ok_or_else(|| {
                s3_error!(InvalidArgument, "The continuation token provided is incorrect")
            })?,
            _ if newer && (quirks.has(Quirk::IgnoresStartAfter) || quirks.has(Quirk::NoOrder)) => {
                String::new()
            }
            _ => call
                .parameter(if newer { "start-after" } else { "marker" })
                .unwrap_or_default()
                .into(),
        };
        let query = Query {
            prefix: call.prefix().to_owned(),
            delimiter: call.delimiter().map(str::to_owned),
            after,
            keys_max,
        };
        let with_owner = !newer || call.parameter("fetch-owner") == Some("true");
        Ok(Self { call, query, newer, url_encoding, with_owner, quirks })
    }

    /// With at most so many entries, however many are asked for.
    pub(crate) fn with_page_entries(mut self, n_max: usize) -> Self {
        self.query.keys_max = self.query.keys_max.min(n_max);
        self
    }

    /// The whole document.
    pub(crate) fn xml(&self, objects: &Objects) -> String {
        let page = match self.order() {
            None => page(objects, &self.query),
            Some(order) => page_in(objects, &self.query, order),
        };
        let mut xml = String::with_capacity(1024 + 300 * page.n_items());
        xml.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        xml.push_str("<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        self.write_head(&mut xml, &page);
        let mut date = (u64::MAX, String::new());
        for (key, object) in &page.contents {
            // Objects that were put together have one date: it is written out once.
            if date.0 != object.modified {
                let fractional = self.quirks.has(Quirk::FractionalDates);
                let write = if fractional { dates::fractional } else { dates::iso };
                date = (object.modified, write(object.last_modified()));
            }
            self.write_object(&mut xml, key, object, &date.1);
        }
        for prefix in &page.prefixes {
            xml.push_str("<CommonPrefixes>");
            self.write_name(&mut xml, "Prefix", prefix);
            xml.push_str("</CommonPrefixes>");
        }
        xml.push_str("</ListBucketResult>");
        xml
    }

    fn order(&self) -> Option<Order> {
        if self.quirks.has(Quirk::NoOrder) {
            return Some(Order::Scattered);
        }
        self.quirks.has(Quirk::TreeOrder).then_some(Order::Tree)
    }

    fn write_head(&self, xml: &mut String, page: &Page<'_>) {
        element(xml, "Name", &self.call.bucket);
        self.write_name(xml, "Prefix", &self.query.prefix);
        if let Some(delimiter) = &self.query.delimiter {
            self.write_name(xml, "Delimiter", delimiter);
        }
        element(xml, "MaxKeys", &self.query.keys_max.to_string());
        if self.url_encoding {
            element(xml, "EncodingType", "url");
        }
        element(xml, "IsTruncated", if page.next.is_some() { "true" } else { "false" });
        if !self.newer {
            self.write_name(xml, "Marker", &self.query.after);
            if let Some(next) = page.next.filter(|_| self.query.delimiter.is_some()) {
                self.write_name(xml, "NextMarker", next);
            }
            return;
        }
        element(xml, "KeyCount", &page.n_items().to_string());
        if let Some(after) = self.call.parameter("start-after") {
            self.write_name(xml, "StartAfter", after);
        }
        if let Some(token) = self.call.parameter("continuation-token") {
            element(xml, "ContinuationToken", token);
        }
        if let Some(next) = page.next {
            element(xml, "NextContinuationToken", &to_token(next));
        }
    }

    fn write_object(&self, xml: &mut String, key: &str, object: &Object, date: &str) {
        xml.push_str("<Contents>");
        self.write_name(xml, "Key", key);
        xml.push_str("<LastModified>");
        xml.push_str(date);
        xml.push_str("</LastModified>");
        if !self.quirks.has(Quirk::NoListETag) {
            let quote = if self.quirks.has(Quirk::UnquotedListETag) { "" } else { "&quot;" };
            xml.push_str("<ETag>");
            xml.push_str(quote);
            object.etag.append_to(xml);
            xml.push_str(quote);
            xml.push_str("</ETag>");
        }
        write!(xml, "<Size>{}</Size>", object.size()).expect("a String takes all");
        if self.with_owner {
            xml.push_str(OWNER);
        }
        xml.push_str("<StorageClass>");
        xml.push_str(object.storage_class());
        xml.push_str("</StorageClass></Contents>");
    }

    /// An element whose text is a key or a part of one.
    fn write_name(&self, xml: &mut String, tag: &str, name: &str) {
        if self.url_encoding {
            element(xml, tag, &url_encoded(name));
        } else {
            element(xml, tag, name);
        }
    }
}

/// The place from which keys can belong to items after the starting point.
fn start(query: &Query) -> Bound<Vec<u8>> {
    if query.after.as_bytes() < query.prefix.as_bytes() || query.after.is_empty() {
        return Bound::Included(query.prefix.clone().into_bytes());
    }
    Bound::Excluded(query.after.clone().into_bytes())
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(bytes) => Bound::Included(bytes),
        Bound::Excluded(bytes) => Bound::Excluded(bytes),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// The first string of bytes after all that begin with `prefix`. UTF-8 has no byte 0xFF, so the
/// last byte can always be raised.
fn successor(prefix: &str) -> Bound<Vec<u8>> {
    let mut bytes = prefix.as_bytes().to_vec();
    *bytes.last_mut().expect("a common prefix holds its delimiter") += 1;
    Bound::Included(bytes)
}

fn common_prefix<'a>(key: &'a str, query: &Query) -> Option<&'a str> {
    let delimiter = query.delimiter.as_deref()?;
    let begin = query.prefix.len();
    let place = key[begin..].find(delimiter)?;
    Some(&key[..begin + place + delimiter.len()])
}

/// Tokens mean nothing to a client; here they are the last item, so that no state is kept.
fn to_token(item: &str) -> String {
    let mut token = String::from("1-");
    for byte in item.bytes() {
        write!(token, "{:02x}", byte ^ 0x5a).expect("a String takes all");
    }
    token
}

fn from_token(token: &str) -> Option<String> {
    let digits = token.strip_prefix("1-").filter(|digits| digits.is_ascii())?;
    let bytes = (0..digits.len())
        .step_by(2)
        .map(|place| Some(u8::from_str_radix(digits.get(place..place + 2)?, 16).ok()? ^ 0x5a))
        .collect::<Option<Vec<u8>>>()?;
    String::from_utf8(bytes).ok()
}

fn element(xml: &mut String, tag: &str, text: &str) {
    xml.push('<');
    xml.push_str(tag);
    xml.push('>');
    escape(xml, text);
    xml.push_str("</");
    xml.push_str(tag);
    xml.push('>');
}

/// Control characters become references as S3 writes them, although XML 1.0 forbids most: that is
/// why clients ask for `encoding-type=url`.
fn escape(xml: &mut String, text: &str) {
    let is_special =
        |byte: u8| byte < b' ' || byte == 0x7f || matches!(byte, b'&' | b'<' | b'>' | b'"');
    if !text.bytes().any(is_special) {
        xml.push_str(text);
        return;
    }
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            control if control.is_ascii_control() => {
                write!(xml, "&#x{:x};", u32::from(control)).expect("a String takes all");
            }
            plain => xml.push(plain),
        }
    }
}

/// As S3 encodes: a space is a plus, a plus is `%2B`, and a slash stays.
fn url_encoded(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
                encoded.push(char::from(byte));
            }
            b' ' => encoded.push('+'),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes all"),
        }
    }
    encoded
}
