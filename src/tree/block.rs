//! The entries of one page, packed: one text for all names and tags, and a row of 24 bytes each.
//! A name is kept once; the key is made of it and the directory's path when somebody asks.

use std::cmp::Ordering;
use std::mem::size_of;

use tokio::time::Instant;

use super::listing::Item;
use super::name::directory_order;
use crate::object::{ETag, Version};

/// Entries in directory order, told by requests that were sent at one time. Never empty.
pub(super) struct Block {
    text: Box<str>,
    rows: Box<[Row]>,
    /// When the request was sent that told of them.
    pub(super) sent: Instant,
}

/// One entry.
struct Row {
    /// Where its name begins in the text; the tag follows the name.
    start: u32,
    /// `NAME_BYTES_MAX` fits.
    name_bytes: u8,
    kind: Kind,
    etag_bytes: u16,
    size: u64,
    modified: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
}

/// One entry, read out of a block.
pub(super) struct Unpacked<'a> {
    pub(super) name: &'a str,
    /// `None` is a directory.
    pub(super) version: Option<Version>,
}

impl Block {
    /// Cuts `items`, in directory order, into blocks of one stamp each.
    pub(super) fn pack(items: &[Item]) -> Vec<Self> {
        items.chunk_by(|a, b| a.sent == b.sent).map(Self::of).collect()
    }

    fn of(items: &[Item]) -> Self {
        let mut text = String::new();
        let rows = items.iter().map(|item| Row::write(item, &mut text)).collect();
        Self { text: text.into(), rows, sent: items[0].sent }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        // The Arc around it has two counters.
        size_of::<Self>() + 2 * size_of::<usize>() + self.text.len() + size_of_val(&*self.rows)
    }

    pub(super) fn row(&self, index: usize) -> Unpacked<'_> {
        let row = &self.rows[index];
        let (name, rest) = self.text[row.start as usize..].split_at(row.name_bytes.into());
        let version = (row.kind == Kind::File).then(|| Version {
            etag: (row.etag_bytes > 0).then(|| ETag::new(&rest[..row.etag_bytes.into()])),
            size: row.size,
            modified: row.modified,
        });
        Unpacked { name, version }
    }

    fn name(&self, index: usize) -> &str {
        let row = &self.rows[index];
        &self.text[row.start as usize..][..row.name_bytes.into()]
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        (0..self.rows.len()).map(|index| self.name(index))
    }

    pub(super) fn last_name(&self) -> &str {
        self.name(self.rows.len() - 1)
    }

    /// Where `name` is, or where it would be.
    pub(super) fn search(&self, name: &str) -> Result<usize, usize> {
        let mut range = 0..self.rows.len();
        while !range.is_empty() {
            let middle = range.start + range.len() / 2;
            match directory_order(self.name(middle), name) {
                Ordering::Less => range.start = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => range.end = middle,
            }
        }
        Err(range.start)
    }

    /// As [`Block::search`] for a block that may be in any order: looks at every row.
    pub(super) fn scan(&self, name: &str) -> Option<usize> {
        self.names().position(|each| each == name)
    }
}

impl Row {
    fn write(item: &Item, text: &mut String) -> Self {
        let start = u32::try_from(text.len()).expect("a page of 1,000 names is far from 4 GiB");
        let name_bytes =
            u8::try_from(item.name.len()).expect("names are checked by is_presentable");
        text.push_str(&item.name);
        let Some(version) = &item.version else {
            return Self {
                start,
                name_bytes,
                kind: Kind::Directory,
                etag_bytes: 0,
                size: 0,
                modified: 0,
            };
        };
        // A tag that no real server has is left out; the first GET then tells it.
        let etag = version.etag.as_ref().map_or("", ETag::as_str);
        let etag_bytes = u16::try_from(etag.len()).unwrap_or(0);
        text.push_str(&etag[..etag_bytes.into()]);
        let Version { size, modified, .. } = *version;
        Self { start, name_bytes, kind: Kind::File, etag_bytes, size, modified }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, version: Option<Version>) -> Item {
        Item { name: name.into(), version, sent: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_in_comes_out_and_is_found() {
        let with = Version { etag: Some(ETag::new("\"é\"")), size: 7, modified: -3 };
        let without = Version { etag: None, size: u64::MAX, modified: 9 };
        let items =
            [item("a-é", Some(with)), item("a", None), item("b", Some(without)), item("c", None)];
        let block = Block::pack(&items).remove(0);
        for (index, item) in items.iter().enumerate() {
            let row = block.row(index);
            assert_eq!((row.name, &row.version), (item.name.as_str(), &item.version));
            assert_eq!(block.search(&item.name), Ok(index));
            assert_eq!(block.scan(&item.name), Some(index));
        }
        assert_eq!(
            (block.search("a-"), block.search("bb"), block.search("d")),
            (Err(0), Err(3), Err(4))
        );
        assert_eq!(block.last_name(), "c");
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_of_a_usual_bucket_costs_less_than_90_bytes() {
        let etag = Some(ETag::new("d41d8cd98f00b204e9800998ecf8427e"));
        let version = Version { etag, size: 1, modified: 2 };
        let items: Vec<Item> = (0..1000)
            .map(|index| item(&format!("part-{index:05}.parquet"), Some(version.clone())))
            .collect();
        let bytes = Block::pack(&items)[0].bytes();
        assert_eq!(bytes / 1000, 24 + 18 + 34, "row, name and tag");
        assert_eq!(size_of::<Row>(), 24);
    }
}
