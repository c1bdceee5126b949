//! Tables of JSON documents under text keys, typed.

use std::marker::PhantomData;

use redb::{
    ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError,
    WriteTransaction,
};
use serde::{Serialize, de::DeserializeOwned};

use super::LedgerError;

/// A table: text keys, JSON rows of type `V`.
pub struct Table<V> {
    name: &'static str,
    row: PhantomData<fn() -> V>,
}

impl<V> Table<V> {
    /// The table of this name.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            row: PhantomData,
        }
    }

    const fn definition(&self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(self.name)
    }
}

impl<V: Serialize + DeserializeOwned> Table<V> {
    fn decode(&self, bytes: &[u8]) -> Result<V, LedgerError> {
        // The error's own text may quote a value, and a value may be a token.
        serde_json::from_slice(bytes).map_err(|error| LedgerError::Row {
            table: self.name,
            why: format!("{:?} error at byte {}", error.classify(), error.column()),
        })
    }

    fn encode(&self, row: &V) -> Result<Vec<u8>, LedgerError> {
        serde_json::to_vec(row).map_err(|error| LedgerError::Row {
            table: self.name,
            why: error.to_string(),
        })
    }
}

/// A change in the making.
pub struct Tx {
    inner: WriteTransaction,
}

impl Tx {
    pub(super) fn new(inner: WriteTransaction) -> Self {
        Self { inner }
    }

    pub(super) fn commit(self) -> Result<(), LedgerError> {
        Ok(self.inner.commit()?)
    }

    /// The row under `key`, as this change sees it.
    ///
    /// # Errors
    /// The row cannot be read, or the disk.
    pub fn get<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
        key: &str,
    ) -> Result<Option<V>, LedgerError> {
        let open = self.inner.open_table(table.definition())?;
        let row = open.get(key)?;
        row.map(|row| table.decode(row.value())).transpose()
    }

    /// Puts `row` under `key`, in place of what was there.
    ///
    /// # Errors
    /// The disk.
    pub fn put<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
        key: &str,
        row: &V,
    ) -> Result<(), LedgerError> {
        let mut open = self.inner.open_table(table.definition())?;
        open.insert(key, table.encode(row)?.as_slice())?;
        Ok(())
    }

    /// Removes what is under `key`.
    ///
    /// # Errors
    /// The disk.
    pub fn delete<V>(&self, table: &Table<V>, key: &str) -> Result<(), LedgerError> {
        let mut open = self.inner.open_table(table.definition())?;
        open.remove(key)?;
        Ok(())
    }

    /// All rows, by key.
    ///
    /// # Errors
    /// A row cannot be read, or the disk.
    pub fn all<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
    ) -> Result<Vec<(String, V)>, LedgerError> {
        let open = self.inner.open_table(table.definition())?;
        collect(table, open.iter()?)
    }
}

/// A consistent look.
pub struct Reader {
    inner: ReadTransaction,
}

impl Reader {
    pub(super) fn new(inner: ReadTransaction) -> Self {
        Self { inner }
    }

    /// The row under `key`.
    ///
    /// # Errors
    /// The row cannot be read, or the disk.
    pub fn get<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
        key: &str,
    ) -> Result<Option<V>, LedgerError> {
        match self.inner.open_table(table.definition()) {
            Ok(open) => open
                .get(key)?
                .map(|row| table.decode(row.value()))
                .transpose(),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All rows, by key.
    ///
    /// # Errors
    /// A row cannot be read, or the disk.
    pub fn all<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
    ) -> Result<Vec<(String, V)>, LedgerError> {
        match self.inner.open_table(table.definition()) {
            Ok(open) => collect(table, open.iter()?),
            Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// The disk.
    pub fn count<V>(&self, table: &Table<V>) -> Result<u64, LedgerError> {
        match self.inner.open_table(table.definition()) {
            Ok(open) => Ok(open.len()?),
            Err(TableError::TableDoesNotExist(_)) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

fn collect<V: Serialize + DeserializeOwned>(
    table: &Table<V>,
    rows: redb::Range<'_, &'static str, &'static [u8]>,
) -> Result<Vec<(String, V)>, LedgerError> {
    rows.map(|row| {
        let (key, value) = row?;
        Ok((key.value().to_owned(), table.decode(value.value())?))
    })
    .collect()
}
