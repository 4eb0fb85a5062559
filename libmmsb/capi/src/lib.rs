//! The C ABI of MMSB: `libmmsb.so`, `libmmsb.a` and the header `mmsb.h`, which is generated from this crate.
//!
//! Every function returns an [`mmsb_status`](status::mmsb_status) and gives its results through pointers. Handles are
//! numbers (see [`handle`]), options are structs that begin with their own size, and what a call returns by pointer
//! belongs to the handle it came from. A panic ends at the boundary, as `MMSB_INTERNAL`.
#![allow(clippy::missing_safety_doc)]

mod about;
mod args;
mod attach;
mod durable;
mod field;
mod handle;
mod history;
mod info;
mod list;
mod loan;
mod many;
mod page;
mod status;
mod subscribe;
