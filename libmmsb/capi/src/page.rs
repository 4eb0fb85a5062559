//! Pages: making, finding, describing, reading, writing.

use std::ffi::c_char;

use bus::schema::{Field, Schema, Value};
use bus::{Bus, ObservedPage, Page, PageId, PageInfo, PageSpec, PageVersion};

use crate::args::{self, Sized32, array, bytes, give, options, out, text, time};
use crate::attach::{BusObject, Side, enter, mmsb_bus, read_only};
use crate::handle::{self, Held, Kind, Object, held};
use crate::info::{mmsb_page_id, mmsb_page_version, mmsb_range};
use crate::list::{Items, mmsb_list, open_list};
use crate::status::{Fault, call, mmsb_status, mmsb_status::*};

/// A page of an open bus. `{0}` is none. It ends with its bus, and belongs to the same thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_page {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

/// How to make a page. Set `struct_size`, and leave 0 what shall be as it is by default; or use
/// `MMSB_PAGE_OPTIONS_INIT`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_page_options {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// Version slots: 0 or 1 an ordinary page, 4 to 64 a cell, for small values that are written and read all the time.
    pub versions: u32,
    /// Bytes of the page, at most 1 GiB; 0: as many as the schema describes.
    pub size: u64,
    /// Its name, at most 255 bytes; null: none.
    pub name: *const c_char,
    /// Its schema in the text form, such as `price:f64,bids:f64[10]`; null: none.
    pub schema: *const c_char,
    /// Keys of its metadata.
    pub meta_keys: *const *const c_char,
    /// Values of its metadata.
    pub meta_values: *const *const c_char,
    /// How many there are of each.
    pub meta_count: usize,
}

// SAFETY: numbers and pointers.
unsafe impl Sized32 for mmsb_page_options {
    const NAME: &'static str = "mmsb_page_options";
    const FIRST: usize = 56;
}

/// A page of one side of a bus.
pub(crate) enum PageSide {
    Own(Page<'static>),
    Observed(ObservedPage<'static>),
}

/// What an `mmsb_page` leads to.
pub(crate) struct PageObject {
    pub(crate) side: PageSide,
}

impl Object for PageObject {
    const KIND: Kind = Kind::Page;
}

impl PageObject {
    /// The page of a participant.
    #[inline]
    pub(crate) fn own(&self) -> Result<&Page<'static>, Fault> {
        match &self.side {
            PageSide::Own(page) => Ok(page),
            PageSide::Observed(_) => Err(read_only()),
        }
    }

    pub(crate) fn id(&self) -> PageId {
        match &self.side {
            PageSide::Own(page) => page.id(),
            PageSide::Observed(page) => page.id(),
        }
    }

    pub(crate) fn size(&self) -> usize {
        match &self.side {
            PageSide::Own(page) => page.size(),
            PageSide::Observed(page) => page.size(),
        }
    }

    fn info(&self) -> Result<PageInfo, Fault> {
        Ok(match &self.side {
            PageSide::Own(page) => page.info()?,
            PageSide::Observed(page) => page.info()?,
        })
    }

    #[inline]
    fn read_range(&self, offset: usize, dst: &mut [u8]) -> Result<PageVersion, Fault> {
        Ok(match &self.side {
            PageSide::Own(page) => page.read_range(offset, dst)?,
            PageSide::Observed(page) => page.read_range(offset, dst)?,
        })
    }

    pub(crate) fn schema(&self) -> Result<Schema, Fault> {
        let schema = match &self.side {
            PageSide::Own(page) => page.schema()?,
            PageSide::Observed(page) => page.schema()?,
        };
        schema.ok_or_else(|| bus::Error::NoSchema(self.id()).into())
    }

    /// A field, whose bytes the page has.
    pub(crate) fn field(&self, schema: &Schema, path: &str) -> Result<Field, Fault> {
        let field = schema.select(path).ok_or_else(|| bus::Error::NoSuchField {
            page: self.id(),
            field: path.to_owned(),
        })?;
        if field.end() > self.size() as u64 {
            return Err(Fault::new(
                MMSB_BAD_SCHEMA,
                format!(
                    "field {path:?} ends behind the page, at byte {}",
                    field.end()
                ),
            ));
        }
        Ok(field)
    }

    pub(crate) fn value(&self, path: &str) -> Result<Value, Fault> {
        let schema = self.schema()?;
        let field = self.field(&schema, path)?;
        let mut bytes = vec![0; field.size() as usize];
        self.read_range(field.offset as usize, &mut bytes)?;
        let here = Field { offset: 0, ..field };
        Ok(schema.read_value(&here, &bytes).map_err(bus::Error::from)?)
    }
}

fn open_page(of: mmsb_bus, bus: &BusObject, side: PageSide) -> Result<mmsb_page, Fault> {
    let handle = bus.adopt(of, Box::new(PageObject { side }))?;
    Ok(mmsb_page { handle })
}

/// What the options say.
///
/// # Safety
/// The pointers in the options are null or valid.
unsafe fn spec(given: *const mmsb_page_options) -> Result<PageSpec, Fault> {
    // SAFETY: by the caller, here and below.
    unsafe {
        let options = options(given)?;
        let schema = args::optional_text(options.schema, "schema")?;
        let schema = schema.map(|text| Schema::parse(text).map_err(bus::Error::from));
        let mut spec = match (schema.transpose()?, options.size) {
            (Some(schema), 0) => PageSpec::with_schema(&schema),
            (Some(schema), size) => PageSpec::new(size).schema(&schema),
            (None, size) => PageSpec::new(size),
        };
        if let Some(name) = args::optional_text(options.name, "name")? {
            spec = spec.name(name);
        }
        if options.versions != 0 {
            spec = spec.versions(options.versions);
        }
        for (key, value) in meta(options.meta_keys, options.meta_values, options.meta_count)? {
            spec = spec.meta(key, value);
        }
        Ok(spec)
    }
}

/// # Safety
/// The arrays are null or have `count` strings.
unsafe fn meta<'a>(
    keys: *const *const c_char,
    values: *const *const c_char,
    count: usize,
) -> Result<Vec<(&'a str, &'a str)>, Fault> {
    // SAFETY: by the caller.
    unsafe {
        let (keys, values) = (
            array(keys, count, "meta_keys")?,
            array(values, count, "meta_values")?,
        );
        let pairs = keys.iter().zip(values);
        pairs
            .map(|(key, value)| Ok((text(*key, "a key")?, text(*value, "a value")?)))
            .collect()
    }
}

/// # Safety
/// `page` is null or valid for a write.
unsafe fn open_with(
    bus: mmsb_bus,
    page: *mut mmsb_page,
    how: impl FnOnce(&BusObject) -> Result<PageSide, Fault>,
) -> mmsb_status {
    call(|| {
        let place = out(page, "page")?;
        let held = enter(bus)?;
        let opened = open_page(bus, &held, how(&held)?)?;
        // SAFETY: checked above.
        unsafe { place.write(opened) };
        Ok(MMSB_OK)
    })
}

/// Makes a page; all its bytes are 0.
///
/// The thread of `bus`. `MMSB_EXISTS`, `MMSB_BAD_NAME`, `MMSB_BAD_CONFIG` (size), `MMSB_BAD_SCHEMA`,
/// `MMSB_OUT_OF_RANGE` (metadata too long), `MMSB_FULL`, `MMSB_READ_ONLY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_create(
    bus: mmsb_bus,
    options: *const mmsb_page_options,
    page: *mut mmsb_page,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe {
        open_with(bus, page, |held| {
            let spec = spec(options)?;
            Ok(PageSide::Own(held.bus()?.create_page(spec)?))
        })
    }
}

/// Finds a page by its name.
///
/// The thread of `bus`. `MMSB_MISSING`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_open(
    bus: mmsb_bus,
    name: *const c_char,
    page: *mut mmsb_page,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe {
        open_with(bus, page, |held| {
            let name = text(name, "name")?;
            Ok(match held.side()? {
                Side::Bus(bus) => PageSide::Own(bus.page(name)?),
                Side::Observer(observer) => PageSide::Observed(observer.page(name)?),
            })
        })
    }
}

/// Finds a page by its id.
///
/// The thread of `bus`. `MMSB_PAGE_GONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_open_id(
    bus: mmsb_bus,
    id: mmsb_page_id,
    page: *mut mmsb_page,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe {
        open_with(bus, page, |held| {
            Ok(match held.side()? {
                Side::Bus(bus) => PageSide::Own(bus.page_by_id(id.into())?),
                Side::Observer(observer) => PageSide::Observed(observer.page_by_id(id.into())?),
            })
        })
    }
}

/// Finds a page by its name, or makes it. One that is there must have the size, and the schema if one is asked for.
///
/// The thread of `bus`. `MMSB_WRONG_SCHEMA`; as `mmsb_page_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_open_or_create(
    bus: mmsb_bus,
    options: *const mmsb_page_options,
    page: *mut mmsb_page,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe {
        open_with(bus, page, |held| {
            let spec = spec(options)?;
            Ok(PageSide::Own(held.bus()?.open_or_create_page(spec)?))
        })
    }
}

/// Ends a handle. The page stays. Not needed ahead of `mmsb_bus_close`.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_page_close(page: mmsb_page) -> mmsb_status {
    call(|| crate::many::close_child_of_bus::<PageObject>(page.handle))
}

/// Destroys a page for everybody. The handle is stale afterwards if it worked.
///
/// The thread of its bus. `MMSB_PAGE_GONE`, `MMSB_READ_ONLY`, `MMSB_TIMEOUT`.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_page_destroy(page: mmsb_page) -> mmsb_status {
    call(|| {
        let (held, bus, id) = of_page(page)?;
        bus.destroy(id)?;
        crate::many::end_held(held, page.handle)
    })
}

/// The participant that a page was opened by, as long as the page is held.
fn of_page(page: mmsb_page) -> Result<(Held<PageObject>, &'static Bus, PageId), Fault> {
    let (object, root) = handle::with_root::<PageObject, BusObject>(page.handle)?;
    let (bus, id) = (root.bus()?, object.id());
    Ok((object, bus, id))
}

/// Gives a page another name.
///
/// The thread of its bus. `MMSB_EXISTS`, `MMSB_BAD_NAME`, `MMSB_PAGE_GONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_rename(page: mmsb_page, name: *const c_char) -> mmsb_status {
    call(|| {
        let (_held, bus, id) = of_page(page)?;
        // SAFETY: by the caller.
        bus.rename(id, unsafe { text(name, "name")? })?;
        Ok(MMSB_OK)
    })
}

/// Gives a page another schema, in the text form.
///
/// The thread of its bus. `MMSB_BAD_SCHEMA`, `MMSB_WRONG_SCHEMA` (the page is too small for it), `MMSB_PAGE_GONE`,
/// `MMSB_FULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_set_schema(
    page: mmsb_page,
    schema: *const c_char,
) -> mmsb_status {
    call(|| {
        let (_held, bus, id) = of_page(page)?;
        // SAFETY: by the caller.
        let schema = unsafe { text(schema, "schema")? };
        bus.set_schema(id, &Schema::parse(schema).map_err(bus::Error::from)?)?;
        Ok(MMSB_OK)
    })
}

/// Sets metadata of a page; other keys stay. An empty value removes its key.
///
/// The thread of its bus. `MMSB_OUT_OF_RANGE` (too long), `MMSB_PAGE_GONE`, `MMSB_FULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_set_meta(
    page: mmsb_page,
    keys: *const *const c_char,
    values: *const *const c_char,
    count: usize,
) -> mmsb_status {
    call(|| {
        let (_held, bus, id) = of_page(page)?;
        // SAFETY: by the caller.
        let meta = unsafe { meta(keys, values, count)? };
        bus.set_meta(id, &meta)?;
        Ok(MMSB_OK)
    })
}

/// Lists the pages whose name begins with `prefix`, by name; null: every page there is, those without a name too. Read
/// them with `mmsb_list_page`.
///
/// The thread of `bus`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_pages(
    bus: mmsb_bus,
    prefix: *const c_char,
    list: *mut mmsb_list,
) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let held = enter(bus)?;
        // SAFETY: by the caller.
        let prefix = unsafe { args::optional_text(prefix, "prefix")? };
        let pages = match (held.side()?, prefix) {
            (Side::Bus(bus), Some(prefix)) => bus.pages(prefix)?,
            (Side::Bus(bus), None) => bus.all_pages()?,
            (Side::Observer(observer), Some(prefix)) => observer.pages(prefix)?,
            (Side::Observer(observer), None) => observer.all_pages()?,
        };
        let opened = open_list(Items::pages(pages), held.serialised())?;
        // SAFETY: checked above.
        unsafe { place.write(opened) };
        Ok(MMSB_OK)
    })
}

/// What a page is, as a list of one. Read it with `mmsb_list_page`.
///
/// The thread of its bus. `MMSB_PAGE_GONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_describe(page: mmsb_page, list: *mut mmsb_list) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let (held, root) = handle::with_root::<PageObject, BusObject>(page.handle)?;
        let opened = open_list(Items::pages(vec![held.info()?]), root.serialised())?;
        // SAFETY: checked above.
        unsafe { place.write(opened) };
        Ok(MMSB_OK)
    })
}

/// Id of a page.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_get_id(page: mmsb_page, id: *mut mmsb_page_id) -> mmsb_status {
    call(|| {
        let place = out(id, "id")?;
        let id = held::<PageObject>(page.handle)?.id();
        // SAFETY: checked above.
        unsafe { place.write(id.into()) };
        Ok(MMSB_OK)
    })
}

/// Bytes of a page. They never change.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_get_size(page: mmsb_page, size: *mut usize) -> mmsb_status {
    call(|| {
        let place = out(size, "size")?;
        let size = held::<PageObject>(page.handle)?.size();
        // SAFETY: checked above.
        unsafe { place.write(size) };
        Ok(MMSB_OK)
    })
}

/// State of a page now.
///
/// The thread of its bus. `MMSB_PAGE_GONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_get_version(
    page: mmsb_page,
    version: *mut mmsb_page_version,
) -> mmsb_status {
    call(|| {
        let place = out(version, "version")?;
        let held = held::<PageObject>(page.handle)?;
        let version = match &held.side {
            PageSide::Own(page) => page.version()?,
            PageSide::Observed(page) => page.version()?,
        };
        // SAFETY: checked above.
        unsafe { place.write(version.into()) };
        Ok(MMSB_OK)
    })
}

/// Copies the first `len` bytes of a page: before a delta or after it, never between. `version` may be null.
///
/// The thread of its bus. `MMSB_OUT_OF_RANGE`, `MMSB_PAGE_GONE`, `MMSB_TIMEOUT` (a writer is stopped inside),
/// observers: `MMSB_CONTENDED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_read(
    page: mmsb_page,
    buffer: *mut u8,
    len: usize,
    version: *mut mmsb_page_version,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe { mmsb_page_read_range(page, 0, buffer, len, version) }
}

/// Copies `len` bytes from `offset` on.
///
/// The thread of its bus. As `mmsb_page_read`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_read_range(
    page: mmsb_page,
    offset: usize,
    buffer: *mut u8,
    len: usize,
    version: *mut mmsb_page_version,
) -> mmsb_status {
    call(|| {
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let dst = unsafe { args::buffer(buffer, len, "buffer")? };
        let found = held.read_range(offset, dst)?;
        // SAFETY: by the caller.
        unsafe { give(version, found.into()) };
        Ok(MMSB_OK)
    })
}

/// Copies the whole page into a buffer of its size if it was written since `known`, which then becomes what was read;
/// or returns `MMSB_NOTHING`.
///
/// The thread of its bus. As `mmsb_page_read`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_read_if_newer(
    page: mmsb_page,
    known: *mut mmsb_page_version,
    buffer: *mut u8,
    len: usize,
) -> mmsb_status {
    call(|| {
        let known = out(known, "known")?;
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let (dst, seen) = unsafe { (args::buffer(buffer, len, "buffer")?, known.read()) };
        let newer = match &held.side {
            PageSide::Own(page) => page.read_if_newer(seen.into(), dst)?,
            PageSide::Observed(page) => page.read_if_newer(seen.into(), dst)?,
        };
        let Some(version) = newer else {
            return Ok(MMSB_NOTHING);
        };
        // SAFETY: checked above.
        unsafe { known.write(version.into()) };
        Ok(MMSB_OK)
    })
}

/// Waits until the delta at `lsn` is in the page (or the page has a later one), then copies the whole page into a
/// buffer of its size.
///
/// The thread of its bus. `MMSB_TIMEOUT`, `MMSB_READ_ONLY`; as `mmsb_page_read`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_read_after(
    page: mmsb_page,
    lsn: u64,
    timeout_ns: u64,
    buffer: *mut u8,
    len: usize,
    version: *mut mmsb_page_version,
) -> mmsb_status {
    call(|| {
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let dst = unsafe { args::buffer(buffer, len, "buffer")? };
        let found = held.own()?.read_after(lsn, dst, time(timeout_ns))?;
        // SAFETY: by the caller.
        unsafe { give(version, found.into()) };
        Ok(MMSB_OK)
    })
}

/// Overwrites a whole page; `len` is its size. `lsn` (may be null) gets the delta's place in the order.
///
/// The thread of its bus. `MMSB_WRONG_SCHEMA` (size), `MMSB_PAGE_GONE`, `MMSB_TIMEOUT`, `MMSB_BACKPRESSURE`,
/// `MMSB_NO_SUPERVISOR`, `MMSB_READ_ONLY`; with `MMSB_SYNCED` also `MMSB_NOT_DURABLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_write(
    page: mmsb_page,
    data: *const u8,
    len: usize,
    lsn: *mut u64,
) -> mmsb_status {
    call(|| {
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let done = held.own()?.write(unsafe { bytes(data, len, "data")? })?;
        // SAFETY: by the caller.
        unsafe { give(lsn, done) };
        Ok(MMSB_OK)
    })
}

/// Overwrites `len` bytes from `offset` on.
///
/// The thread of its bus. `MMSB_OUT_OF_RANGE`, `MMSB_TOO_LARGE`; as `mmsb_page_write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_patch(
    page: mmsb_page,
    offset: usize,
    data: *const u8,
    len: usize,
    lsn: *mut u64,
) -> mmsb_status {
    call(|| {
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let done = held
            .own()?
            .patch(offset, unsafe { bytes(data, len, "data")? })?;
        // SAFETY: by the caller.
        unsafe { give(lsn, done) };
        Ok(MMSB_OK)
    })
}

/// As `mmsb_page_patch`, on behalf of the earlier delta at LSN `cause`: provenance is read from it.
///
/// The thread of its bus. As `mmsb_page_patch`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_patch_caused(
    page: mmsb_page,
    cause: u64,
    offset: usize,
    data: *const u8,
    len: usize,
    lsn: *mut u64,
) -> mmsb_status {
    call(|| {
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let data = unsafe { bytes(data, len, "data")? };
        let done = held.own()?.caused_by(cause).patch(offset, data)?;
        // SAFETY: by the caller.
        unsafe { give(lsn, done) };
        Ok(MMSB_OK)
    })
}

/// Ranges as the library takes them.
///
/// # Safety
/// The array is null or has `count` ranges, each null or valid.
pub(crate) unsafe fn gather<'a>(
    ranges: *const mmsb_range,
    count: usize,
) -> Result<Vec<(usize, &'a [u8])>, Fault> {
    // SAFETY: by the caller.
    unsafe {
        array(ranges, count, "ranges")?
            .iter()
            .map(|range| Ok((range.offset, bytes(range.bytes, range.len, "a range")?)))
            .collect()
    }
}

/// Overwrites several ranges as one delta, in whatever order they are given.
///
/// The thread of its bus. `MMSB_OUT_OF_RANGE` (also if they overlap), `MMSB_TOO_LARGE`; as `mmsb_page_write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_patch_many(
    page: mmsb_page,
    ranges: *const mmsb_range,
    count: usize,
    lsn: *mut u64,
) -> mmsb_status {
    call(|| {
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let done = held.own()?.patch_many(&unsafe { gather(ranges, count)? })?;
        // SAFETY: by the caller.
        unsafe { give(lsn, done) };
        Ok(MMSB_OK)
    })
}

/// Overwrites, from `offset` on, those of `len` bytes whose byte in `mask` (`len` bytes too) is not 0.
///
/// The thread of its bus. As `mmsb_page_patch`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_write_masked(
    page: mmsb_page,
    offset: usize,
    mask: *const u8,
    data: *const u8,
    len: usize,
    lsn: *mut u64,
) -> mmsb_status {
    call(|| {
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let (mask, data) = unsafe { (bytes(mask, len, "mask")?, bytes(data, len, "data")?) };
        let done = held.own()?.write_masked(offset, mask, data)?;
        // SAFETY: by the caller.
        unsafe { give(lsn, done) };
        Ok(MMSB_OK)
    })
}
