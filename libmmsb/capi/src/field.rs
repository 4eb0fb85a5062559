//! Values in pages, by schema.

use std::ffi::c_char;

use bus::schema::Value;

use crate::args::{give, give_text, out, text};
use crate::attach::BusObject;
use crate::handle::{self, held};
use crate::page::{PageObject, mmsb_page};
use crate::status::{Fault, call, mmsb_status, mmsb_status::*};

/// Where a field is in its page. It stays good as long as the page keeps its schema.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(non_camel_case_types)]
pub struct mmsb_field {
    /// First byte.
    pub offset: u32,
    /// Bytes in all.
    pub size: u32,
    /// Elements; of text: bytes.
    pub count: u32,
    /// Type of an element: 1 u8, 2 i8, 3 u16, 4 i16, 5 u32, 6 i32, 7 u64, 8 i64, 9 f32, 10 f64, 11 bool, 12 char.
    pub element_type: u32,
}

/// Finds a field by the page's schema: `price`, an element `bids[3]`; of an array page the empty path or `[3]`. Read it
/// with `mmsb_page_read_range`, write it with `mmsb_page_patch`.
///
/// The thread of its bus. `MMSB_NO_SCHEMA`, `MMSB_MISSING`, `MMSB_BAD_SCHEMA`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_find_field(
    page: mmsb_page,
    path: *const c_char,
    field: *mut mmsb_field,
) -> mmsb_status {
    call(|| {
        let place = out(field, "field")?;
        let (held, root) = handle::with_root::<PageObject, BusObject>(page.handle)?;
        root.side()?;
        // SAFETY: by the caller.
        let found = held.field(&held.schema()?, unsafe { text(path, "path")? })?;
        let told = mmsb_field {
            offset: found.offset,
            size: u32::try_from(found.size()).unwrap_or(u32::MAX),
            count: found.count,
            element_type: found.scalar.code(),
        };
        // SAFETY: checked above.
        unsafe { place.write(told) };
        Ok(MMSB_OK)
    })
}

fn not_a(path: &str, value: &Value, what: &str) -> Fault {
    Fault::new(
        MMSB_WRONG_SCHEMA,
        format!("field {path:?} is {value}, which is no {what}"),
    )
}

/// # Safety
/// `path` is null or a string, `place` null or valid for a write.
unsafe fn get<T>(
    page: mmsb_page,
    path: *const c_char,
    place: *mut T,
    what: &str,
    convert: impl FnOnce(&Value) -> Option<T>,
) -> mmsb_status {
    call(|| {
        let place = out(place, "value")?;
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let path = unsafe { text(path, "path")? };
        let value = held.value(path)?;
        let number = convert(&value).ok_or_else(|| not_a(path, &value, what))?;
        // SAFETY: checked above.
        unsafe { place.write(number) };
        Ok(MMSB_OK)
    })
}

/// Value of a number field, as a double: exact up to 2^53.
///
/// The thread of its bus. `MMSB_WRONG_SCHEMA`; as `mmsb_page_find_field` and `mmsb_page_read`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_get_f64(
    page: mmsb_page,
    path: *const c_char,
    value: *mut f64,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe {
        get(page, path, value, "number", |value| match value {
            Value::F64(v) => Some(*v),
            Value::F32(v) => Some((*v).into()),
            Value::U64(v) => Some(*v as f64),
            Value::I64(v) => Some(*v as f64),
            Value::Bool(v) => Some(f64::from(u8::from(*v))),
            _ => None,
        })
    }
}

/// Value of a field of whole numbers that an int64_t holds.
///
/// The thread of its bus. As `mmsb_page_get_f64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_get_i64(
    page: mmsb_page,
    path: *const c_char,
    value: *mut i64,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe {
        get(page, path, value, "int64_t", |value| match value {
            Value::I64(v) => Some(*v),
            Value::U64(v) => i64::try_from(*v).ok(),
            Value::Bool(v) => Some((*v).into()),
            _ => None,
        })
    }
}

/// Value of a field of whole numbers that a uint64_t holds.
///
/// The thread of its bus. As `mmsb_page_get_f64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_get_u64(
    page: mmsb_page,
    path: *const c_char,
    value: *mut u64,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe {
        get(page, path, value, "uint64_t", |value| match value {
            Value::U64(v) => Some(*v),
            Value::I64(v) => u64::try_from(*v).ok(),
            Value::Bool(v) => Some((*v).into()),
            _ => None,
        })
    }
}

/// Value of any field as text, such as `1.5` or `[1, 2]`; text fields bare. `needed` (may be null) gets the bytes that
/// it takes with its NUL.
///
/// The thread of its bus. `MMSB_TOO_SMALL`; as `mmsb_page_get_f64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_get_text(
    page: mmsb_page,
    path: *const c_char,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> mmsb_status {
    call(|| {
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let value = held.value(unsafe { text(path, "path")? })?;
        // SAFETY: by the caller.
        unsafe { give_text(&value.to_string(), buffer, size, needed) }
    })
}

/// Stores the value that `value` says in a field: `1.5`, `[1, 2, 3]`, plain text for a text field.
///
/// The thread of its bus. `MMSB_BAD_SCHEMA` if it is no value of the field's type; as `mmsb_page_find_field` and
/// `mmsb_page_patch`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_page_set_text(
    page: mmsb_page,
    path: *const c_char,
    value: *const c_char,
    lsn: *mut u64,
) -> mmsb_status {
    call(|| {
        let held = held::<PageObject>(page.handle)?;
        // SAFETY: by the caller.
        let (path, value) = unsafe { (text(path, "path")?, text(value, "value")?) };
        let done = held.own()?.field(path)?.set_text(value)?;
        // SAFETY: by the caller.
        unsafe { give(lsn, done) };
        Ok(MMSB_OK)
    })
}
