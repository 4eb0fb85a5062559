//! Arguments: checked ahead of everything else.

use std::ffi::{CStr, c_char};
use std::time::Duration;

use crate::status::{Fault, mmsb_status};

/// Version of the ABI. It changes when a program that was built against an older header could go wrong.
pub const MMSB_ABI_VERSION: u32 = 1;

/// Version of the ABI that this library speaks. Compare with `MMSB_ABI_VERSION` of the header.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_abi_version() -> u32 {
    MMSB_ABI_VERSION
}

/// Whether a program built against ABI version `built_against` (its `MMSB_ABI_VERSION`) may use this library.
///
/// Any thread. `MMSB_ABI_MISMATCH` if not.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_check_abi(built_against: u32) -> mmsb_status {
    crate::status::call(|| check_abi(built_against))
}

pub(crate) fn check_abi(built_against: u32) -> Result<mmsb_status, Fault> {
    if built_against == MMSB_ABI_VERSION {
        return Ok(mmsb_status::MMSB_OK);
    }
    Err(Fault::new(
        mmsb_status::MMSB_ABI_MISMATCH,
        format!(
            "this libmmsb speaks ABI {MMSB_ABI_VERSION}, the program was built against {built_against}: build it anew, or \
             install the library that it was built for"
        ),
    ))
}

/// Version of the library, such as `0.1.0`. Lives for ever.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Where a result goes, which must not be null.
#[inline]
pub(crate) fn out<T>(place: *mut T, name: &str) -> Result<*mut T, Fault> {
    if place.is_null() || !place.is_aligned() {
        return Err(null(name));
    }
    Ok(place)
}

#[cold]
fn null(name: &str) -> Fault {
    Fault::invalid(format!("{name} is null, or not aligned"))
}

/// Stores a result that the caller may not want.
///
/// # Safety
/// `place` is null or valid for a write.
#[inline]
pub(crate) unsafe fn give<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: by the caller; nobody has looked at its alignment.
        unsafe { place.write_unaligned(value) };
    }
}

/// Text that must be there.
///
/// # Safety
/// `text` is null or a NUL-terminated string that lives as long as the result is used.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str, Fault> {
    // SAFETY: by the caller.
    unsafe { optional_text(text, name) }?.ok_or_else(|| null(name))
}

/// Text that may be null.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn optional_text<'a>(
    text: *const c_char,
    name: &str,
) -> Result<Option<&'a str>, Fault> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: by the caller.
    let text = unsafe { CStr::from_ptr(text) };
    match text.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(e) => Err(Fault::invalid(format!("{name} is not UTF-8: {e}"))),
    }
}

/// Bytes to read.
///
/// # Safety
/// `data` is null or valid for reads of `len` bytes for as long as the result is used.
#[inline]
pub(crate) unsafe fn bytes<'a>(data: *const u8, len: usize, name: &str) -> Result<&'a [u8], Fault> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() || len > isize::MAX as usize {
        return Err(null(name));
    }
    // SAFETY: by the caller, and checked above.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// Bytes to fill.
///
/// # Safety
/// `data` is null or valid for writes of `len` bytes, and nobody else uses them.
#[inline]
pub(crate) unsafe fn buffer<'a>(
    data: *mut u8,
    len: usize,
    name: &str,
) -> Result<&'a mut [u8], Fault> {
    if len == 0 {
        return Ok(&mut []);
    }
    if data.is_null() || len > isize::MAX as usize {
        return Err(null(name));
    }
    // SAFETY: by the caller. Bytes that the caller has not initialised are only ever written.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, len) })
}

/// An array to read.
///
/// # Safety
/// `items` is null or valid for reads of `count` values for as long as the result is used.
pub(crate) unsafe fn array<'a, T>(
    items: *const T,
    count: usize,
    name: &str,
) -> Result<&'a [T], Fault> {
    if count == 0 {
        return Ok(&[]);
    }
    let fits = count
        .checked_mul(size_of::<T>())
        .is_some_and(|bytes| bytes <= isize::MAX as usize);
    if items.is_null() || !items.is_aligned() || !fits {
        return Err(null(name));
    }
    // SAFETY: by the caller, and checked above.
    Ok(unsafe { std::slice::from_raw_parts(items, count) })
}

/// A struct that begins with its own size as u32, and of which all-zero is the default.
///
/// # Safety
/// Plain data: every bit pattern is a value.
pub(crate) unsafe trait Sized32: Copy {
    const NAME: &'static str;
    /// Bytes that the struct had in the first version of the library that knew it: fewer, and its fields are cut
    /// through.
    const FIRST: usize;
}

/// What a program says about the size of its struct, if that can be.
fn program_size<T: Sized32>(size: u32) -> Result<usize, Fault> {
    let size = size as usize;
    if (T::FIRST..=4096).contains(&size) && size.is_multiple_of(align_of::<T>()) {
        return Ok(size);
    }
    Err(Fault::new(
        mmsb_status::MMSB_ABI_MISMATCH,
        format!(
            "{} says that it has {size} bytes: set its struct_size to its sizeof, and the rest of options to 0",
            T::NAME
        ),
    ))
}

/// Reads options of whatever version: what the program does not know is zero, what the library does not know must be.
///
/// # Safety
/// `given` is null or valid for reads of as many bytes as its first four say.
pub(crate) unsafe fn options<T: Sized32>(given: *const T) -> Result<T, Fault> {
    // SAFETY: all-zero is a value, by the trait.
    let mut options: T = unsafe { std::mem::zeroed() };
    if given.is_null() {
        return Ok(options);
    }
    if !given.is_aligned() {
        return Err(null(T::NAME));
    }
    // SAFETY: by the caller.
    let size = program_size::<T>(unsafe { given.cast::<u32>().read() })?;
    let known = size.min(size_of::<T>());
    // SAFETY: both have at least `known` bytes.
    unsafe { std::ptr::copy_nonoverlapping(given.cast::<u8>(), (&raw mut options).cast(), known) };
    // SAFETY: the caller's struct has `size` bytes.
    let unknown =
        unsafe { std::slice::from_raw_parts(given.cast::<u8>().add(known), size - known) };
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(Fault::new(
            mmsb_status::MMSB_ABI_MISMATCH,
            format!(
                "{} sets what this version of the library ({}) does not know",
                T::NAME,
                env!("CARGO_PKG_VERSION")
            ),
        ));
    }
    Ok(options)
}

/// A struct of the caller that begins with its own size as u32, and is to be filled.
pub(crate) struct Room<T> {
    place: *mut T,
    size: usize,
}

/// Looks at a struct that is to be filled, ahead of whatever cannot be undone.
///
/// # Safety
/// `place` is null or valid for reads of four bytes, and, until [`Room::fill`], for writes of as many bytes as they
/// say.
pub(crate) unsafe fn room<T: Sized32>(place: *mut T) -> Result<Room<T>, Fault> {
    let place = out(place, T::NAME)?;
    // SAFETY: by the caller.
    let size = program_size::<T>(unsafe { place.cast::<u32>().read() })?;
    Ok(Room { place, size })
}

/// The same for a struct that the caller may not want.
///
/// # Safety
/// As [`room`].
pub(crate) unsafe fn optional_room<T: Sized32>(place: *mut T) -> Result<Option<Room<T>>, Fault> {
    if place.is_null() {
        return Ok(None);
    }
    // SAFETY: by the caller.
    unsafe { room(place) }.map(Some)
}

impl<T: Sized32> Room<T> {
    /// Fills it: as much as the program knows of it.
    pub(crate) fn fill(self, value: T) {
        let known = self.size.min(size_of::<T>());
        // SAFETY: both have at least `known` bytes, of which four come first that stay the caller's.
        unsafe {
            let (from, to) = ((&raw const value).cast::<u8>(), self.place.cast::<u8>());
            std::ptr::copy_nonoverlapping(from.add(4), to.add(4), known - 4);
            std::ptr::write_bytes(to.add(known), 0, self.size - known);
        }
    }
}

/// Copies text with its NUL into a buffer, and says how many bytes it needs.
///
/// # Safety
/// `buffer` is null or valid for writes of `size` bytes; `needed` is null or valid for a write.
pub(crate) unsafe fn give_text(
    text: &str,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> Result<mmsb_status, Fault> {
    // SAFETY: by the caller.
    unsafe { give(needed, text.len() + 1) };
    if text.len() + 1 > size {
        return Err(Fault::new(
            mmsb_status::MMSB_TOO_SMALL,
            format!("the buffer has {size} bytes, {} are needed", text.len() + 1),
        ));
    }
    if buffer.is_null() {
        return Err(null("the buffer"));
    }
    // SAFETY: there is room for the text and its NUL.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), text.len());
        buffer.add(text.len()).write(0);
    }
    Ok(mmsb_status::MMSB_OK)
}

/// A time to wait; `u64::MAX` is for ever.
pub(crate) fn time(ns: u64) -> Duration {
    match ns {
        // As long as a clock can count: some 292 years.
        u64::MAX => Duration::from_nanos(i64::MAX as u64),
        ns => Duration::from_nanos(ns.min(i64::MAX as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        struct_size: u32,
        first: u32,
        second: u64,
        later: u64,
    }

    // SAFETY: numbers.
    unsafe impl Sized32 for Grown {
        const NAME: &'static str = "grown";
        const FIRST: usize = 16;
    }

    fn of(struct_size: u32) -> Grown {
        Grown {
            struct_size,
            first: 1,
            second: 2,
            later: 3,
        }
    }

    #[test]
    fn options_of_an_older_program_end_where_it_says() {
        // SAFETY: the struct has at least as many bytes as it says, or is refused for what it says.
        let read = |size| unsafe { options(&of(size)) };
        assert_eq!(read(24).unwrap(), of(24));
        assert_eq!(read(16).unwrap(), Grown { later: 0, ..of(16) });
        for wrong in [0, 4, 8, 12, 15, 17, 20, 23, 4097, 5000, u32::MAX] {
            assert_eq!(
                read(wrong).unwrap_err().status,
                mmsb_status::MMSB_ABI_MISMATCH
            );
        }
        // SAFETY: null is allowed.
        let none = unsafe { options::<Grown>(std::ptr::null()) }.unwrap();
        assert_eq!(
            none,
            Grown {
                struct_size: 0,
                first: 0,
                second: 0,
                later: 0
            }
        );
    }

    #[test]
    fn an_older_program_is_told_what_it_knows() {
        let mut place = of(16);
        // SAFETY: a struct with at least as many bytes as it says.
        unsafe { room(&mut place) }.unwrap().fill(Grown {
            struct_size: 0,
            first: 7,
            second: 8,
            later: 9,
        });
        assert_eq!((place.struct_size, place.first, place.second), (16, 7, 8));
        assert_eq!(place.later, 3, "not its own");
    }

    #[test]
    fn the_structs_have_the_sizes_of_their_first_version_or_grew() {
        fn check<T: Sized32>() {
            assert!(T::FIRST >= 8 && T::FIRST <= size_of::<T>(), "{}", T::NAME);
            assert!(T::FIRST.is_multiple_of(align_of::<T>()), "{}", T::NAME);
        }
        check::<crate::attach::mmsb_bus_options>();
        check::<crate::about::mmsb_bus_info>();
        check::<crate::about::mmsb_stats>();
        check::<crate::page::mmsb_page_options>();
        check::<crate::list::mmsb_page_info>();
        check::<crate::list::mmsb_participant>();
        check::<crate::list::mmsb_change>();
        check::<crate::list::mmsb_page_diff>();
        check::<crate::subscribe::mmsb_subscribe_options>();
        check::<crate::subscribe::mmsb_event>();
        check::<crate::subscribe::mmsb_subscription_stats>();
        check::<crate::durable::mmsb_log_status>();
        check::<crate::durable::mmsb_checkpoint_info>();
        check::<crate::history::mmsb_state_info>();
        check::<crate::history::mmsb_replayed>();
    }
}
