//! Fields of a page by name, for programs that know a page's schema only at run time.

use mmsb_shm::schema::{Field, Schema, SchemaError, Value};

use crate::Page;
use crate::error::{Error, Result};

/// One field of a page; from [`Page::field`].
#[derive(Debug)]
pub struct FieldRef<'p, 'b> {
    page: &'p Page<'b>,
    schema: Schema,
    field: Field,
}

/// Selects a field and checks that the page has its bytes.
pub(crate) fn select(
    schema: &Schema,
    path: &str,
    id: mmsb_shm::PageId,
    size: usize,
) -> Result<Field> {
    let field = schema.select(path).ok_or_else(|| Error::NoSuchField {
        page: id,
        field: path.to_owned(),
    })?;
    if field.end() > size as u64 {
        return Err(SchemaError::PageTooSmall {
            name: field.name.clone(),
            end: field.end(),
            len: size,
        }
        .into());
    }
    Ok(field)
}

/// Reads a field through `read`, which copies a range of the page.
pub(crate) fn read_field(
    schema: &Schema,
    field: &Field,
    read: impl FnOnce(usize, &mut [u8]) -> Result<()>,
) -> Result<Value> {
    let mut bytes = vec![0; field.size() as usize];
    read(field.offset as usize, &mut bytes)?;
    // The bytes begin with the field.
    let here = Field {
        offset: 0,
        ..field.clone()
    };
    Ok(schema.read_value(&here, &bytes)?)
}

impl<'p, 'b> FieldRef<'p, 'b> {
    pub(crate) fn new(page: &'p Page<'b>, schema: Schema, path: &str) -> Result<FieldRef<'p, 'b>> {
        let field = select(&schema, path, page.id(), page.size())?;
        Ok(FieldRef {
            page,
            schema,
            field,
        })
    }

    /// Name, offset, type and count.
    pub fn field(&self) -> &Field {
        &self.field
    }

    /// Its value now.
    ///
    /// # Errors
    /// As any read of the page.
    pub fn get(&self) -> Result<Value> {
        read_field(&self.schema, &self.field, |offset, dst| {
            self.page.read_range(offset, dst).map(|_| ())
        })
    }

    /// Stores the value that `text` says, such as `1.5`, `[1, 2, 3]` or plain text for a text field. Returns the LSN.
    ///
    /// # Errors
    /// [`Error::Schema`] if the text is no value of the field's type; as any write of the page.
    pub fn set_text(&self, text: &str) -> Result<u64> {
        let bytes = self.schema.write_value(&self.field, text)?;
        self.page.patch(self.field.offset as usize, &bytes)
    }
}
