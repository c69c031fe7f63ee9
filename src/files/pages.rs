//! Pages of Parquet files, of which those are refused for which the crate would take memory that no sound page needs: a
//! process that gets none aborts.

use ::parquet::basic::Encoding;
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::schema::types::ColumnDescriptor;

/// Most values of a page. Programs write pages of about a megabyte.
const VALUES_MAX: u32 = 1 << 24;

/// The pages of a column.
pub(super) struct CheckedPages {
    pages: Box<dyn PageReader>,
    /// Whether rows may lack a value, so that levels come before the values.
    has_levels: bool,
}

impl CheckedPages {
    pub(super) fn new(pages: Box<dyn PageReader>, column: &ColumnDescriptor) -> Self {
        CheckedPages { pages, has_levels: column.max_def_level() > 0 }
    }

    fn check(&self, page: &Page) -> Result<()> {
        let bytes = page.buffer();
        let is_sound = match page {
            // Each value takes at least a byte.
            Page::DictionaryPage { num_values, .. } => *num_values as usize <= bytes.len(),
            Page::DataPage { num_values, encoding, .. } => {
                let values = match self.has_levels {
                    true => behind_levels(bytes),
                    false => Some(&bytes[..]),
                };
                *num_values <= VALUES_MAX && has_as_many(values, *encoding, *num_values)
            }
            Page::DataPageV2 {
                num_values,
                encoding,
                def_levels_byte_len,
                rep_levels_byte_len,
                ..
            } => {
                let levels = u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len);
                let values = usize::try_from(levels).ok().and_then(|levels| bytes.get(levels..));
                *num_values <= VALUES_MAX && has_as_many(values, *encoding, *num_values)
            }
        };
        match is_sound {
            true => Ok(()),
            false => {
                Err(ParquetError::General("a page states other values than it has".to_owned()))
            }
        }
    }
}

/// Returns the bytes behind the levels at the start of a page, whose length comes first.
fn behind_levels(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.get(u32::from_le_bytes(*length) as usize..)
}

/// Whether values that are encoded by their differences are no more than the page has.
fn has_as_many(values: Option<&[u8]>, encoding: Encoding, count: u32) -> bool {
    let is_delta = matches!(
        encoding,
        Encoding::DELTA_BINARY_PACKED
            | Encoding::DELTA_LENGTH_BYTE_ARRAY
            | Encoding::DELTA_BYTE_ARRAY
    );
    match values {
        _ if !is_delta => true,
        None => false,
        // A page without a value has none of it.
        Some([]) => true,
        Some(values) => stated_count(values).is_some_and(|stated| stated <= count.into()),
    }
}

/// Returns the number of values that are encoded by their differences: the third number of their header.
fn stated_count(values: &[u8]) -> Option<u64> {
    let mut bytes = values.iter();
    let mut number = || {
        let mut number = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = *bytes.next()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    };
    let (_block_size, _miniblocks) = (number()?, number()?);
    number()
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.as_ref().map_or(Ok(()), |page| self.check(page))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
