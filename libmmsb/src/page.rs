//! Pages: handles that read and write.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bytemuck::{AnyBitPattern, NoUninit, Pod};
use mmsb_shm::schema::Schema;
use mmsb_shm::{
    Change, Cold, Lease, NewPage, Options, PageError, PageId, PageInfo, PageRef, PageVersion,
    Receipt,
};

use crate::Bus;
use crate::error::{Error, Result, timed_out};
use crate::field::FieldRef;
use crate::loan::{Loan, View};

/// Reads up to this many bytes go through the stack.
const SMALL: usize = 64;

/// A page to be made.
///
/// ```
/// use mmsb::PageSpec;
///
/// let spec = PageSpec::new(4096).name("robot/arm/joints").meta("unit", "rad");
/// let cell = PageSpec::of::<[f32; 6]>().versions(8).name("robot/pose");
/// # let _ = (spec, cell);
/// ```
#[derive(Clone, Debug, Default)]
pub struct PageSpec {
    pub(crate) new: NewPage,
}

impl PageSpec {
    /// A page of `size` bytes, 1 to 1 GiB.
    pub fn new(size: u64) -> PageSpec {
        PageSpec {
            new: NewPage {
                size,
                versions: 1,
                cold: Cold::default(),
            },
        }
    }

    /// A page for one value of type `T`.
    pub fn of<T: Pod>() -> PageSpec {
        PageSpec::new(size_of::<T>() as u64)
    }

    /// A page of the size that `schema` describes, with the schema.
    pub fn with_schema(schema: &Schema) -> PageSpec {
        PageSpec::new(schema.size() as u64).schema(schema)
    }

    /// Its name: at most 255 bytes of UTF-8 without control characters. Slashes make prefixes worth subscribing to.
    pub fn name(mut self, name: &str) -> PageSpec {
        self.new.cold.name = name.to_owned();
        self
    }

    /// What its bytes mean. Does not change the size.
    pub fn schema(mut self, schema: &Schema) -> PageSpec {
        self.new.cold.schema = schema.encode();
        self.new.cold.schema_hash = schema.hash();
        self
    }

    /// Version slots: 1 for an ordinary page, 4 to 64 for a cell, whose readers are not disturbed by a writer that never
    /// pauses. Costs that many times the memory, and a copy of the page for each patch that does not replace it whole.
    pub fn versions(mut self, versions: u32) -> PageSpec {
        self.new.versions = versions;
        self
    }

    /// Adds a metadata key-value.
    pub fn meta(mut self, key: &str, value: &str) -> PageSpec {
        self.new.cold.meta.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// A page, looked up: reads and writes it as one participant.
///
/// # Reads
/// A read is one state of the page, never half a delta, whatever happens to the writer. Reading takes no lock and no
/// system call. It fails for [`PageError::PageGone`], and for [`PageError::Timeout`] if a living writer (a stopped one)
/// stands still inside the page; a dead writer's work is finished by the reader.
///
/// # Writes
/// Every write is one delta: it gets an LSN, which is returned, and raises the page's epoch by one. It is atomic also if
/// the writer is killed at any instruction. A write that returned survives the death of every process; it does not
/// survive a reboot. Writes fail, with nothing changed, for [`PageError::OutOfRange`], [`PageError::PageGone`],
/// [`PageError::Timeout`] (a living participant keeps the page), [`PageError::Backpressure`] (the ring is full and stays
/// so) and [`PageError::Forked`].
pub struct Page<'b> {
    pub(crate) bus: &'b Bus,
    pub(crate) page: PageRef,
}

impl std::fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page")
            .field("id", &self.id())
            .field("size", &self.size())
            .finish()
    }
}

/// The byte offset as records hold it, or the error that says where it would lie.
pub(crate) fn offset32(page: &PageRef, offset: usize, len: usize) -> Result<u32> {
    u32::try_from(offset).map_err(|_| {
        PageError::OutOfRange {
            page: page.id(),
            offset: offset as u64,
            len: len as u64,
            size: page.size() as u64,
        }
        .into()
    })
}

/// The table of a sparse delta, and the bytes of its ranges one behind the other.
pub(crate) struct Gathered {
    pub(crate) ranges: Vec<(u32, u32)>,
    pub(crate) bytes: Vec<u8>,
}

/// Sorts ranges by offset.
pub(crate) fn gather(page: &PageRef, ranges: &[(usize, &[u8])]) -> Result<Gathered> {
    let mut sorted: Vec<(usize, &[u8])> = ranges.to_vec();
    // Of two at one offset the empty one goes first: it overlaps nothing.
    sorted.sort_by_key(|(offset, bytes)| (*offset, bytes.len()));
    let mut gathered = Gathered {
        ranges: Vec::with_capacity(sorted.len()),
        bytes: Vec::with_capacity(sorted.iter().map(|(_, b)| b.len()).sum()),
    };
    for (offset, b) in sorted {
        // A length past 4 GiB would not survive the cast; no page holds it, so the range is refused for its end.
        let len = u32::try_from(b.len()).unwrap_or(u32::MAX);
        gathered
            .ranges
            .push((offset32(page, offset, b.len())?, len));
        gathered.bytes.extend_from_slice(b);
    }
    Ok(gathered)
}

pub(crate) fn check_size(page: &PageRef, wanted: usize) -> Result<()> {
    if wanted == page.size() {
        return Ok(());
    }
    Err(PageError::WrongSize {
        page: page.id(),
        wanted,
        size: page.size(),
    }
    .into())
}

/// Reads a value through `read`, which fills a buffer of exactly its size.
#[inline]
pub(crate) fn read_value<T: AnyBitPattern, V>(
    scratch: &RefCell<Vec<u8>>,
    read: impl FnOnce(&mut [u8]) -> Result<V>,
) -> Result<(T, V)> {
    let n = size_of::<T>();
    if n <= SMALL {
        let mut buffer = [0u8; SMALL];
        let version = read(&mut buffer[..n])?;
        return Ok((bytemuck::pod_read_unaligned(&buffer[..n]), version));
    }
    let mut scratch = scratch.borrow_mut();
    scratch.resize(n, 0);
    let version = read(&mut scratch)?;
    Ok((bytemuck::pod_read_unaligned(&scratch), version))
}

impl<'b> Page<'b> {
    pub(crate) fn new(bus: &'b Bus, page: PageRef) -> Page<'b> {
        Page { bus, page }
    }

    /// The id: names this page for ever.
    pub fn id(&self) -> PageId {
        self.page.id()
    }

    /// Its bytes.
    pub fn size(&self) -> usize {
        self.page.size()
    }

    /// Its name; empty if it has none.
    ///
    /// # Errors
    /// [`PageError::Corrupt`].
    pub fn name(&self) -> Result<String> {
        Ok(self.bus.shared().cold(self.id())?.name)
    }

    /// All that is known about it beside its bytes.
    ///
    /// # Errors
    /// [`PageError::PageGone`].
    pub fn info(&self) -> Result<PageInfo> {
        self.bus.page_info(self.id())
    }

    /// What its bytes mean, if it has a schema.
    ///
    /// # Errors
    /// [`Error::Schema`] if what is stored is none.
    pub fn schema(&self) -> Result<Option<Schema>> {
        decode(&self.bus.shared().cold(self.id())?)
    }

    /// Checks that the page has this very schema.
    ///
    /// # Errors
    /// [`PageError::WrongSchema`] with both hashes.
    pub fn expect_schema(&self, schema: &Schema) -> Result<()> {
        self.expect_schema_hash(schema.hash())
    }

    /// As [`Page::expect_schema`], for who knows only the hash.
    ///
    /// # Errors
    /// [`PageError::WrongSchema`].
    pub fn expect_schema_hash(&self, expected: u64) -> Result<()> {
        let found = self.bus.shared().cold(self.id())?.schema_hash;
        if found == expected {
            return Ok(());
        }
        Err(PageError::WrongSchema {
            page: self.id(),
            expected,
            found,
        }
        .into())
    }

    /// Epoch and LSN of the page now.
    ///
    /// # Errors
    /// As any read.
    pub fn version(&self) -> Result<PageVersion> {
        self.read_range(0, &mut [])
    }

    /// Copies the whole page into `dst`.
    ///
    /// # Errors
    /// [`PageError::WrongSize`] if `dst` has another length; as any read.
    #[inline]
    pub fn read_into(&self, dst: &mut [u8]) -> Result<PageVersion> {
        check_size(&self.page, dst.len())?;
        self.read_range(0, dst)
    }

    /// Copies `dst.len()` bytes from `offset` on.
    ///
    /// # Errors
    /// [`PageError::OutOfRange`]; as any read.
    #[inline]
    pub fn read_range(&self, offset: usize, dst: &mut [u8]) -> Result<PageVersion> {
        self.bus.participant().check_fork()?;
        Ok(self.bus.participant().read(&self.page, offset, dst)?)
    }

    /// The whole page in a vector of its own.
    ///
    /// # Errors
    /// As any read.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.size()];
        self.read_range(0, &mut bytes)?;
        Ok(bytes)
    }

    /// The page as one value. `T` must have the size of the page; any bytes must be a `T`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("typed").dir(dir.path()).create()?;
    /// use bytemuck::{Pod, Zeroable};
    ///
    /// #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
    /// #[repr(C)]
    /// struct Pose {
    ///     position: [f32; 3],
    ///     heading: f32,
    /// }
    ///
    /// let page = bus.create_page(mmsb::PageSpec::of::<Pose>())?;
    /// let pose = Pose { position: [1.0, 2.0, 3.0], heading: 0.5 };
    /// let lsn = page.set(&pose)?;
    /// let (read, version) = page.read_versioned::<Pose>()?;
    /// assert_eq!((read, version.lsn, version.epoch), (pose, lsn, 1));
    /// assert!(page.read::<u64>().is_err(), "another size");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PageError::WrongSize`]; as any read.
    #[inline]
    pub fn read<T: AnyBitPattern>(&self) -> Result<T> {
        self.read_versioned().map(|(value, _)| value)
    }

    /// As [`Page::read`], with the version read.
    ///
    /// # Errors
    /// As [`Page::read`].
    #[inline]
    pub fn read_versioned<T: AnyBitPattern>(&self) -> Result<(T, PageVersion)> {
        check_size(&self.page, size_of::<T>())?;
        read_value(&self.bus.scratch, |buffer| self.read_range(0, buffer))
    }

    /// Copies the whole page into `dst` if it has changed since `known`; one load if it has not.
    ///
    /// # Errors
    /// As [`Page::read_into`].
    pub fn read_if_newer(&self, known: PageVersion, dst: &mut [u8]) -> Result<Option<PageVersion>> {
        check_size(&self.page, dst.len())?;
        self.bus.participant().check_fork()?;
        if !self.bus.shared().may_be_newer(&self.page, known)? {
            return Ok(None);
        }
        let version = self.read_range(0, dst)?;
        Ok((version.epoch != known.epoch).then_some(version))
    }

    /// Copies the whole page into `dst` once it holds the delta at `lsn`. The log leads the pages: a subscriber that was
    /// told of a delta may find the page still without it for some tens of nanoseconds.
    ///
    /// # Errors
    /// [`PageError::Timeout`] if `timeout` passes first; as [`Page::read_into`].
    pub fn read_after(&self, lsn: u64, dst: &mut [u8], timeout: Duration) -> Result<PageVersion> {
        check_size(&self.page, dst.len())?;
        let begin = Instant::now();
        let mut rounds = 0u32;
        loop {
            // Asked ahead of the read: if everything to `lsn` is applied, the read holds all that concerns this page.
            let all_applied = rounds > 64 && self.bus.applied_lsn()? > lsn;
            let version = self.read_range(0, dst)?;
            if version.lsn >= lsn || all_applied {
                return Ok(version);
            }
            let waited = begin.elapsed();
            if waited >= timeout {
                return Err(timed_out(
                    format_args!("page {} at LSN {lsn}", self.id()),
                    "its writer",
                    waited,
                ));
            }
            rounds += 1;
            if rounds > 64 {
                if rounds.is_multiple_of(64) {
                    self.bus.recover()?;
                }
                std::thread::sleep(Duration::from_micros(50));
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Replaces the whole page. Returns the LSN.
    ///
    /// # Errors
    /// [`PageError::WrongSize`] if `bytes` has another length; as any write.
    pub fn write(&self, bytes: &[u8]) -> Result<u64> {
        check_size(&self.page, bytes.len())?;
        self.patch(0, bytes)
    }

    /// Overwrites `bytes.len()` bytes from `offset` on. Returns the LSN.
    ///
    /// A patch larger than a ring record goes through a fresh block, at the cost of copying the page once.
    ///
    /// # Errors
    /// [`PageError::OutOfRange`]; as any write; [`PageError::DeltaTooLarge`] for a cell whose patch exceeds a record.
    #[inline]
    pub fn patch(&self, offset: usize, bytes: &[u8]) -> Result<u64> {
        let lsn = self.bus.participant().patch(&self.page, offset, bytes)?;
        self.bus.settle(lsn)
    }

    /// Overwrites several ranges as one delta, in whatever order they are given. Returns the LSN.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("patch-many").dir(dir.path()).create()?;
    /// # let page = bus.create_page(mmsb::PageSpec::new(16))?;
    /// page.patch_many(&[(8, b"world"), (0, b"hello")])?;
    /// assert_eq!(page.to_vec()?, b"hello\0\0\0world\0\0\0");
    /// assert_eq!(page.version()?.epoch, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PageError::Overlap`], counting the ranges by offset; [`PageError::OutOfRange`]; [`PageError::DeltaTooLarge`];
    /// as any write.
    pub fn patch_many(&self, ranges: &[(usize, &[u8])]) -> Result<u64> {
        self.patch_many_caused(ranges, 0)
    }

    fn patch_many_caused(&self, ranges: &[(usize, &[u8])], cause: u64) -> Result<u64> {
        let gathered = gather(&self.page, ranges)?;
        self.commit(
            Change::Ranges {
                page: &self.page,
                ranges: &gathered.ranges,
                bytes: &gathered.bytes,
            },
            cause,
        )
    }

    /// Overwrites, from `offset` on, the bytes whose mask byte is not 0. Returns the LSN.
    ///
    /// # Errors
    /// [`PageError::MaskLength`] if `mask` and `bytes` differ in length; [`PageError::OutOfRange`],
    /// [`PageError::DeltaTooLarge`]; as any write.
    pub fn write_masked(&self, offset: usize, mask: &[u8], bytes: &[u8]) -> Result<u64> {
        self.write_masked_caused(offset, mask, bytes, 0)
    }

    fn write_masked_caused(
        &self,
        offset: usize,
        mask: &[u8],
        bytes: &[u8],
        cause: u64,
    ) -> Result<u64> {
        self.commit(
            Change::Masked {
                page: &self.page,
                offset: offset32(&self.page, offset, bytes.len())?,
                mask,
                bytes,
            },
            cause,
        )
    }

    fn commit(&self, change: Change<'_>, cause: u64) -> Result<u64> {
        let options = Options {
            cause,
            transaction: false,
        };
        let lsn = self.bus.participant().commit(&[change], &options)?.last;
        self.bus.settle(lsn)
    }

    /// Stores one value that fills the page. Returns the LSN.
    ///
    /// # Errors
    /// [`PageError::WrongSize`]; as any write.
    #[inline]
    pub fn set<T: NoUninit>(&self, value: &T) -> Result<u64> {
        check_size(&self.page, size_of::<T>())?;
        self.patch(0, bytemuck::bytes_of(value))
    }

    /// Computes a new state from the old one: `f` changes a copy of the page, and the bytes that differ are committed as
    /// one delta. No other writer comes in between. `None`: nothing changed, nothing was committed.
    ///
    /// `f` runs again when the ring was full and the page had to be let go, and after
    /// [`PageError::Backpressure`] when the call is repeated. If it panics, nothing is committed.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("update").dir(dir.path()).create()?;
    /// # let page = bus.create_page(mmsb::PageSpec::new(16))?;
    /// let (n, receipt) = page.update(|bytes| {
    ///     bytes[3] += 1;
    ///     bytes[3]
    /// })?;
    /// assert_eq!((n, receipt.is_some()), (1, true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As any write.
    pub fn update<R>(&self, f: impl FnMut(&mut [u8]) -> R) -> Result<(R, Option<Receipt>)> {
        let done = self.bus.participant().update(&self.page, 0, f)?;
        self.bus.settle_update(done)
    }

    /// As [`Page::update`], on the page as one value.
    ///
    /// # Errors
    /// [`PageError::WrongSize`]; as any write.
    pub fn update_as<T: Pod, R>(
        &self,
        mut f: impl FnMut(&mut T) -> R,
    ) -> Result<(R, Option<Receipt>)> {
        check_size(&self.page, size_of::<T>())?;
        self.update(|bytes| {
            let mut value = bytemuck::pod_read_unaligned(bytes);
            let result = f(&mut value);
            bytes.copy_from_slice(bytemuck::bytes_of(&value));
            result
        })
    }

    /// A writer whose deltas say that the delta at `cause` led to them.
    pub fn caused_by(&self, cause: u64) -> Caused<'_> {
        Caused { page: self, cause }
    }

    /// Lends a block of the page's size to be filled and published without a copy: for large values. Its content is zero
    /// or an earlier version of this page.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("loan").dir(dir.path()).create()?;
    /// # let page = bus.create_page(mmsb::PageSpec::new(1 << 20))?;
    /// let mut frame = page.loan()?;
    /// frame.fill(7);
    /// frame.publish()?;
    /// let view = page.view()?; // in place, pinned
    /// assert!(view.iter().all(|byte| *byte == 7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PageError::NotLoaned`] for a cell; [`PageError::Full`]; [`PageError::TooManyHeld`] at more than 16 at once;
    /// [`PageError::PageGone`].
    pub fn loan(&self) -> Result<Loan<'_>> {
        Ok(Loan::new(
            self.bus,
            self.bus.participant().loan(&self.page)?,
        ))
    }

    /// Looks at the page's loaned block in place. It does not change while the view lives, even if the page moves on.
    ///
    /// # Errors
    /// [`PageError::NotLoaned`] if the page's content is not a published loan: then it changes in place, and can only be
    /// copied. [`PageError::TooManyHeld`] at more than 16 views at once.
    pub fn view(&self) -> Result<View<'_>> {
        Ok(View::new(self.bus.participant().pin(&self.page)?))
    }

    /// Keeps this page for many writes, which are quicker while the lease lives. Another writer may ask for the page; it
    /// is handed over between two writes and taken again by the next one.
    ///
    /// # Errors
    /// [`PageError::Timeout`], [`PageError::Forked`].
    pub fn lease(&self) -> Result<Lease<'_>> {
        Ok(self.bus.participant().lease(&self.page)?)
    }

    /// One field of the page, by its schema: a name such as `price`, an element `bids[3]`; of an array page the empty
    /// path or `[3]`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("field").dir(dir.path()).create()?;
    /// use mmsb::{PageSpec, schema::{Schema, Value}};
    ///
    /// let schema = Schema::parse("price:f64,bids:f64[10]")?;
    /// let page = bus.create_page(PageSpec::with_schema(&schema))?;
    /// page.field("bids[3]")?.set_text("99.5")?;
    /// assert_eq!(page.field("bids[3]")?.get()?, Value::F64(99.5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoSchema`], [`Error::NoSuchField`], [`Error::Schema`].
    pub fn field(&self, path: &str) -> Result<FieldRef<'_, 'b>> {
        let schema = self.schema()?.ok_or(Error::NoSchema(self.id()))?;
        FieldRef::new(self, schema, path)
    }
}

pub(crate) fn decode(cold: &Cold) -> Result<Option<Schema>> {
    if cold.schema.is_empty() {
        return Ok(None);
    }
    Ok(Some(Schema::decode(&cold.schema)?))
}

/// Writes to a page on behalf of an earlier delta: provenance is read from the cause that these deltas carry.
#[derive(Clone, Copy, Debug)]
pub struct Caused<'p> {
    page: &'p Page<'p>,
    cause: u64,
}

impl Caused<'_> {
    /// As [`Page::write`].
    ///
    /// # Errors
    /// As [`Page::write`].
    pub fn write(&self, bytes: &[u8]) -> Result<u64> {
        check_size(&self.page.page, bytes.len())?;
        self.patch(0, bytes)
    }

    /// As [`Page::patch`].
    ///
    /// # Errors
    /// As [`Page::patch`].
    pub fn patch(&self, offset: usize, bytes: &[u8]) -> Result<u64> {
        let participant = self.page.bus.participant();
        let lsn = participant.patch_caused(&self.page.page, offset, bytes, self.cause)?;
        self.page.bus.settle(lsn)
    }

    /// As [`Page::patch_many`].
    ///
    /// # Errors
    /// As [`Page::patch_many`].
    pub fn patch_many(&self, ranges: &[(usize, &[u8])]) -> Result<u64> {
        self.page.patch_many_caused(ranges, self.cause)
    }

    /// As [`Page::write_masked`].
    ///
    /// # Errors
    /// As [`Page::write_masked`].
    pub fn write_masked(&self, offset: usize, mask: &[u8], bytes: &[u8]) -> Result<u64> {
        self.page
            .write_masked_caused(offset, mask, bytes, self.cause)
    }

    /// As [`Page::set`].
    ///
    /// # Errors
    /// As [`Page::set`].
    pub fn set<T: NoUninit>(&self, value: &T) -> Result<u64> {
        check_size(&self.page.page, size_of::<T>())?;
        self.patch(0, bytemuck::bytes_of(value))
    }

    /// As [`Page::update`].
    ///
    /// # Errors
    /// As [`Page::update`].
    pub fn update<R>(&self, f: impl FnMut(&mut [u8]) -> R) -> Result<(R, Option<Receipt>)> {
        let participant = self.page.bus.participant();
        let done = participant.update(&self.page.page, self.cause, f)?;
        self.page.bus.settle_update(done)
    }
}
