//! The entries of one page, packed: one text for all names and tags, and a row of 24 bytes each. The
//! tag of an upload, 32 hex digits, is 16 bytes. A name is kept once; the key is made of it and the
//! directory's path when somebody asks, so that an inode, too, is no more than a place in a block
//! ([`Listed`]).
//! Invariant: a block never changes, and weighs on the scales for as long as anybody has it.

use std::cmp::Ordering;
use std::fmt;
use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::answer::{Answer, What};
use super::listing::{Item, comes_after};
use super::name::directory_order;
use super::weight::{Scales, Weight};
use crate::object::{DirPath, ETag, Ino, Object, Packing, Version};

/// Entries in directory order, told by requests that were sent at one time. Never empty.
pub struct Block {
    /// Whose entries they are.
    dir: DirPath,
    text: Box<[u8]>,
    rows: Box<[Row]>,
    /// When the request was sent that told of them.
    pub(super) sent: Instant,
    /// When somebody last used it: [`Scales::tick`].
    used: AtomicU32,
    weight: Option<Weight>,
}

/// One entry.
struct Row {
    /// Where its name begins in the text; the tag follows the name.
    start: u32,
    /// `NAME_BYTES_MAX` fits.
    name_bytes: u8,
    kind: Kind,
    /// Bytes of the tag in the text.
    etag_bytes: u16,
    size: u64,
    modified: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The tag is as it is written, or there is none.
    File,
    /// The tag is 16 bytes, and two more for the number of parts where the upload had some.
    FileByHash,
    Directory,
    /// What was here when the page came first is not any more: it keeps its place, and at the ends of
    /// the block its name, too.
    Gone,
}

/// One entry, read out of a block.
pub(super) struct Unpacked<'a> {
    pub(super) name: &'a str,
    /// `None` is a directory.
    pub(super) version: Option<Version>,
}

/// One entry of a listing, by its place.
#[derive(Clone)]
pub struct Listed {
    block: Arc<Block>,
    index: u16,
}

/// The name of an entry in 32 bits, for pages that are listed again.
pub(super) type Print = u32;

pub(super) fn print(name: &str) -> Print {
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    let half = xxh3_64(name.as_bytes()) as u32;
    half
}

/// More rows do not fit the index of [`Listed`]; a page has 1,000.
const ROWS_MAX: usize = 1 << 15;

impl Block {
    /// Cuts `items`, in directory order, into blocks of one stamp each, whose keys come all after
    /// `last`, a key or common prefix, or all not.
    pub(super) fn pack(dir: &DirPath, items: &[Item], last: Option<&str>) -> Vec<Self> {
        let is_after = |item: &Item| {
            last.is_none_or(|last| comes_after(&item.name, item.version.is_none(), last))
        };
        let same = items.chunk_by(|a, b| a.sent == b.sent && is_after(a) == is_after(b));
        same.flat_map(|items| items.chunks(ROWS_MAX)).map(|items| Self::of(dir, items)).collect()
    }

    fn of(dir: &DirPath, items: &[Item]) -> Self {
        Self::with_places(dir, items.iter().map(Ok), items[0].sent)
    }

    /// With names, or nothing, for what is not there any more. The first and the last have a name.
    pub(super) fn with_places<'a>(
        dir: &DirPath,
        items: impl Iterator<Item = Result<&'a Item, &'a str>>,
        sent: Instant,
    ) -> Self {
        let mut text = Vec::new();
        let rows = items.map(|item| Row::write(item, &mut text)).collect();
        let used = AtomicU32::new(0);
        Self { dir: dir.clone(), text: text.into(), rows, sent, used, weight: None }
    }

    /// From now on, until it is dropped by all, it is on the scales.
    pub(super) fn weighed(mut self, scales: &Scales) -> Arc<Self> {
        self.weight = Some(scales.weight(self.bytes()));
        self.used = AtomicU32::new(scales.tick());
        Arc::new(self)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        // The Arc around it has two counters, and the allocator keeps one word for each piece.
        size_of::<Self>() + 5 * size_of::<usize>() + self.text.len() + size_of_val(&*self.rows)
    }

    /// Somebody uses it now.
    pub(super) fn touch(&self) {
        if let Some(weight) = &self.weight {
            self.used.store(weight.tick(), Relaxed);
        }
    }

    /// When it was used last, by [`Scales::tick`].
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Whether fewer than one in `share` of its entries is in use by itself.
    pub fn is_left_by_most(self: &Arc<Self>, share: usize) -> bool {
        Arc::strong_count(self) * share < self.rows.len()
    }

    /// A block of files.
    #[cfg(test)]
    pub(crate) fn of_names(dir: &str, names: &[String]) -> Arc<Self> {
        let version = Version { etag: None, size: 1, modified: 1 };
        let (sent, version) = (Instant::now(), Some(version));
        let item = |name: &String| Item { name: name.clone(), version: version.clone(), sent };
        let items: Vec<Item> = names.iter().map(item).collect();
        Self::of(&DirPath::new(dir), &items).weighed(&Scales::default())
    }

    /// `None` for what is not there any more.
    pub(super) fn row(&self, index: usize) -> Option<Unpacked<'_>> {
        let row = &self.rows[index];
        let version = match row.kind {
            Kind::Gone => return None,
            Kind::Directory => None,
            Kind::File | Kind::FileByHash => {
                Some(Version { etag: self.tag(row), size: row.size, modified: row.modified })
            }
        };
        Some(Unpacked { name: self.name(index), version })
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Unpacked<'_>> {
        (0..self.rows.len()).filter_map(|index| self.row(index))
    }

    fn name(&self, index: usize) -> &str {
        let row = &self.rows[index];
        let bytes = &self.text[row.start as usize..][..row.name_bytes.into()];
        std::str::from_utf8(bytes).expect("it came from a name")
    }

    fn tag_bytes(&self, row: &Row) -> &[u8] {
        &self.text[row.start as usize + usize::from(row.name_bytes)..][..row.etag_bytes.into()]
    }

    fn tag(&self, row: &Row) -> Option<ETag> {
        let bytes = self.tag_bytes(row);
        let packing = match row.kind {
            Kind::FileByHash => Packing::Digest,
            Kind::File | Kind::Directory | Kind::Gone => Packing::Text,
        };
        (!bytes.is_empty()).then(|| ETag::unpack(bytes, packing))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let there = |index: &usize| self.rows[*index].kind != Kind::Gone;
        (0..self.rows.len()).filter(there).map(|index| self.name(index))
    }

    /// Whether the keys of its entries come after `last`, as they were packed.
    pub(super) fn comes_after(&self, last: &str) -> bool {
        comes_after(self.name(0), self.rows[0].kind == Kind::Directory, last)
    }

    pub(super) fn first_name(&self) -> &str {
        self.name(0)
    }

    /// The names that are directories.
    pub(super) fn directories(&self) -> impl Iterator<Item = &str> {
        let is_directory = |(_, row): &(usize, &Row)| row.kind == Kind::Directory;
        self.rows.iter().enumerate().filter(is_directory).map(|(index, _)| self.name(index))
    }

    pub(super) fn last_name(&self) -> &str {
        self.name(self.rows.len() - 1)
    }

    /// Where `name` is, or where it would be.
    pub(super) fn search(&self, name: &str) -> Result<usize, usize> {
        let mut range = 0..self.rows.len();
        while !range.is_empty() {
            let middle = range.start + range.len() / 2;
            // What is gone may have no name to go by.
            let Some(here) = (middle..range.end).find(|at| self.rows[*at].name_bytes > 0) else {
                range.end = middle;
                continue;
            };
            match directory_order(self.name(here), name) {
                Ordering::Less => range.start = here + 1,
                Ordering::Equal if self.rows[here].kind == Kind::Gone => return Err(here),
                Ordering::Equal => return Ok(here),
                Ordering::Greater => range.end = middle,
            }
        }
        Err(range.start)
    }

    /// As [`Block::search`] for a block that may be in any order: looks at every row.
    pub(super) fn scan(&self, name: &str) -> Option<usize> {
        let is_it =
            |index: &usize| self.rows[*index].kind != Kind::Gone && self.name(*index) == name;
        (0..self.rows.len()).find(is_it)
    }

    /// What each name is known by when the page is listed again.
    pub(super) fn prints(&self) -> Box<[Print]> {
        (0..self.rows.len()).map(|index| print(self.name(index))).collect()
    }
}

impl Row {
    fn write(item: Result<&Item, &str>, text: &mut Vec<u8>) -> Self {
        let start = u32::try_from(text.len()).expect("a page of 1,000 names is far from 4 GiB");
        let row = |name_bytes, kind| Self {
            start,
            name_bytes,
            kind,
            etag_bytes: 0,
            size: 0,
            modified: 0,
        };
        let name = item.map_or_else(|name| name, |item| &item.name);
        let name_bytes = u8::try_from(name.len()).expect("names are checked by is_presentable");
        text.extend_from_slice(name.as_bytes());
        let Ok(item) = item else { return row(name_bytes, Kind::Gone) };
        let Some(version) = &item.version else { return row(name_bytes, Kind::Directory) };
        let before = text.len();
        let kind = match version.etag.as_ref().map(|etag| etag.pack(text)) {
            Some(Packing::Digest) => Kind::FileByHash,
            Some(Packing::Text) | None => Kind::File,
        };
        // A tag that no real server has is left out; the first GET then tells it.
        let etag_bytes = u16::try_from(text.len() - before).unwrap_or(0);
        text.truncate(before + usize::from(etag_bytes));
        let Version { size, modified, .. } = *version;
        Self { etag_bytes, size, modified, ..row(name_bytes, kind) }
    }
}

impl Listed {
    /// Entry `index` of `block`, which is there.
    pub(super) fn at(block: &Arc<Block>, index: usize) -> Self {
        let index = u16::try_from(index).expect("ROWS_MAX");
        Self { block: Arc::clone(block), index }
    }

    /// In two pieces, for who keeps very many.
    pub fn into_parts(self) -> (Arc<Block>, u16) {
        (self.block, self.index)
    }

    pub fn from_parts(block: &Arc<Block>, index: u16) -> Self {
        Self { block: Arc::clone(block), index }
    }

    fn row(&self) -> &Row {
        &self.block.rows[usize::from(self.index)]
    }

    pub fn name(&self) -> &str {
        self.block.name(self.index.into())
    }

    /// Not so for what was not there any more when its page was listed again.
    pub(super) fn is_there(&self) -> bool {
        self.row().kind != Kind::Gone
    }

    pub fn is_directory(&self) -> bool {
        self.row().kind == Kind::Directory
    }

    /// Bytes of the object; 0 for a directory.
    pub fn size(&self) -> u64 {
        self.row().size
    }

    /// As in [`Version`].
    pub fn modified(&self) -> i64 {
        self.row().modified
    }

    /// The directory that it is in.
    pub fn dir(&self) -> &DirPath {
        &self.block.dir
    }

    /// Whether it is what was answered.
    pub(super) fn is(&self, answer: &Answer) -> bool {
        let row = self.block.row(self.index.into());
        self.block.sent == answer.sent
            && match (&answer.what, row.map(|row| row.version)) {
                (What::File(version), Some(Some(listed))) => *version == listed,
                (What::Directory { listable: true }, Some(None)) => true,
                _ => false,
            }
    }

    /// What it is, by itself.
    pub fn object(&self) -> Option<Object> {
        let row = self.block.row(self.index.into())?;
        let version = row.version?;
        Some(Object { key: self.dir().key(row.name).into(), version })
    }

    /// The directory that it is.
    pub fn path(&self) -> Option<DirPath> {
        self.is_directory().then(|| self.dir().child(self.name()))
    }

    /// The number that its object or directory has before any collision.
    pub fn first_number(&self) -> Ino {
        if self.is_directory() {
            return Ino::of_directory(self.dir().child(self.name()).as_str());
        }
        let row = self.row();
        let tag = self.block.tag(row);
        Ino::of_version([self.dir().as_str(), self.name()], tag.as_ref(), row.size, row.modified)
    }

    /// Somebody uses it now.
    pub fn touch(&self) {
        self.block.touch();
    }
}

/// Whether both are one version of one object, or one directory.
impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.block, &other.block) {
            return self.index == other.index;
        }
        let (a, b) = (self.row(), other.row());
        (a.kind, a.size, a.modified) == (b.kind, b.size, b.modified)
            && self.name() == other.name()
            && self.dir() == other.dir()
            && self.block.tag_bytes(a) == other.block.tag_bytes(b)
    }
}

impl Eq for Listed {}

impl PartialEq<Object> for Listed {
    fn eq(&self, other: &Object) -> bool {
        let row = self.row();
        let Version { etag, size, modified } = &other.version;
        matches!(row.kind, Kind::File | Kind::FileByHash)
            && (row.size, row.modified) == (*size, *modified)
            && other.key.strip_prefix(self.dir().as_str()) == Some(self.name())
            && self.block.tag(row) == *etag
    }
}

impl PartialEq<DirPath> for Listed {
    fn eq(&self, other: &DirPath) -> bool {
        let name = other.as_str().strip_prefix(self.dir().as_str());
        self.is_directory() && name.and_then(|name| name.strip_suffix('/')) == Some(self.name())
    }
}

impl fmt::Debug for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dir().as_str(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(name: &str, version: Option<Version>) -> Item {
        Item { name: name.into(), version, sent: Instant::now() }
    }

    fn packed(items: &[Item]) -> Arc<Block> {
        Block::pack(&DirPath::new("p/"), items, None).remove(0).weighed(&Scales::default())
    }

    fn check(tag: &str, etag_bytes: u16) {
        let version = Version { etag: Some(ETag::new(tag)), size: 7, modified: -3 };
        let block = packed(&[item("a", Some(version.clone()))]);
        assert_eq!(block.row(0).unwrap().version, Some(version.clone()), "{tag}");
        assert_eq!(block.rows[0].etag_bytes, etag_bytes, "{tag}");
        let object = Object { key: "p/a".into(), version };
        let listed = Listed::at(&block, 0);
        assert_eq!(listed.first_number(), object.ino(), "{tag}");
        assert!(listed == object && listed.object() == Some(object), "{tag}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_in_comes_out_and_is_found() {
        let with = Version { etag: Some(ETag::new("\"é\"")), size: 7, modified: -3 };
        let without = Version { etag: None, size: u64::MAX, modified: 9 };
        let items =
            [item("a-é", Some(with)), item("a", None), item("b", Some(without)), item("c", None)];
        let block = packed(&items);
        for (index, item) in items.iter().enumerate() {
            let row = block.row(index).unwrap();
            assert_eq!((row.name, &row.version), (item.name.as_str(), &item.version));
            assert_eq!(block.search(&item.name), Ok(index));
            assert_eq!(block.scan(&item.name), Some(index));
        }
        assert_eq!(
            (block.search("a-"), block.search("bb"), block.search("d")),
            (Err(0), Err(3), Err(4))
        );
        assert_eq!(block.last_name(), "c");
        let directory = Listed::at(&block, 3);
        assert_eq!(directory.first_number(), Ino::of_directory("p/c/"));
        assert!(directory == DirPath::new("p/c/") && directory != DirPath::new("p/b/"));
    }

    #[test]
    fn a_tag_of_hex_digits_is_kept_by_its_bytes_and_any_other_as_it_is() {
        let hash = "0123456789abcdef0123456789abcdef";
        check(hash, 16);
        check(&format!("{hash}-1"), 18);
        check(&format!("{hash}-10000"), 18);
        for other in ["-0", "-01", "-", "-65536", "-+1", "0", "g"] {
            let tag = format!("{hash}{other}");
            check(&tag, u16::try_from(tag.len()).unwrap() + 2);
        }
        check(&hash.to_uppercase(), 34);
        check(&format!("W/\"{hash}\""), 36);
        check("\"é\"", 4);
        check("\"", 1);
    }

    #[test]
    fn what_is_gone_keeps_its_place_and_has_no_name() {
        let items = ["a", "c", "e"].map(|name| item(name, None));
        let places =
            [Err("0"), Ok(&items[0]), Err(""), Err(""), Ok(&items[1]), Ok(&items[2]), Err("f")];
        let block = Block::with_places(&DirPath::new("p/"), places.into_iter(), items[0].sent);
        assert_eq!(block.names().collect::<Vec<_>>(), ["a", "c", "e"]);
        for (name, place) in [("a", 1), ("c", 4), ("e", 5)] {
            assert_eq!(block.search(name), Ok(place));
        }
        assert!(["", "0", "b", "d", "f"].iter().all(|name| block.search(name).is_err()));
        assert!(block.row(0).is_none() && block.row(1).is_some() && block.scan("f").is_none());
        assert_eq!((block.first_name(), block.last_name()), ("0", "f"));
    }

    proptest! {
        #[test]
        fn any_tag_comes_out_as_it_went_in(tag in "W?/?\"?[0-9a-f]{30,33}(-[0-9]{0,6})?\"?") {
            let version = Version { etag: Some(ETag::new(&tag)), size: 0, modified: 0 };
            let block = packed(&[item("a", Some(version.clone()))]);
            prop_assert_eq!(block.row(0).unwrap().version, Some(version));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_of_a_usual_bucket_costs_less_than_60_bytes() {
        let etag = Some(ETag::new("d41d8cd98f00b204e9800998ecf8427e"));
        let version = Version { etag, size: 1, modified: 2 };
        let items: Vec<Item> = (0..1000)
            .map(|index| item(&format!("part-{index:05}.parquet"), Some(version.clone())))
            .collect();
        let bytes = packed(&items).bytes();
        assert_eq!(bytes / 1000, 24 + 18 + 16, "row, name and tag");
        assert_eq!(size_of::<Row>(), 24);
    }
}
