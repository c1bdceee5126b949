//! Versions of the file. Each step reads one version and writes the next; a
//! fixture of every past version is opened by a test.

use redb::Database;

use super::rows::META;
use super::table::Batch;
use super::writer::commit;
use super::{LedgerError, Reader};
use redb::ReadableDatabase;

/// The version that is written today.
pub(super) const VERSION: u32 = 1;

const KEY: &str = "format";

/// Brings the file to [`VERSION`]; a new file gets it at once.
pub(super) fn up_to_date(db: &Database) -> Result<(), LedgerError> {
    let found = Reader::new(db.begin_read()?).get(&META, KEY)?;
    match found {
        Some(VERSION) => Ok(()),
        Some(found) if found > VERSION => Err(LedgerError::TooNew {
            found,
            known: VERSION,
        }),
        // Version 1 is the first: there is nothing older to read.
        Some(_) | None => {
            let mut batch = Batch::new(Reader::new(db.begin_read()?));
            batch.run(|tx| tx.put(&META, KEY, &VERSION))?;
            commit(db, &batch.into_rows())
        }
    }
}
