//! Tables of JSON documents under text keys, typed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Bound;
use std::rc::Rc;

use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTableMetadata, TableDefinition, TableError,
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
}

const fn definition(name: &str) -> TableDefinition<'_, &'static str, &'static [u8]> {
    TableDefinition::new(name)
}

impl<V: Serialize + DeserializeOwned> Table<V> {
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<V, LedgerError> {
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

/// Rows that were put (`Some`) or deleted (`None`), by table and key.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows(BTreeMap<&'static str, BTreeMap<String, Option<Vec<u8>>>>);

impl Rows {
    fn get(&self, table: &'static str, key: &str) -> Option<Option<&[u8]>> {
        let row = self.0.get(table)?.get(key)?;
        Some(row.as_deref())
    }

    fn set(&mut self, table: &'static str, key: &str, row: Option<Vec<u8>>) {
        let rows = self.0.entry(table).or_default();
        match rows.get_mut(key) {
            Some(there) => *there = row,
            None => drop(rows.insert(key.to_owned(), row)),
        }
    }

    /// Puts `later` over these.
    fn merge(&mut self, later: Self) {
        for (table, rows) in later.0 {
            self.0.entry(table).or_default().extend(rows);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of the tables that are changed.
    pub(super) fn tables(&self) -> Vec<&'static str> {
        self.0.keys().copied().collect()
    }

    /// What changed of one table.
    pub(super) fn of<V>(
        &self,
        table: &Table<V>,
    ) -> impl Iterator<Item = (&str, Option<&[u8]>)> + use<'_, V> {
        let rows = self.0.get(table.name).into_iter().flatten();
        rows.map(|(key, row)| (key.as_str(), row.as_deref()))
    }

    /// Writes them into a transaction.
    pub(super) fn write(&self, tx: &WriteTransaction) -> Result<(), LedgerError> {
        for (table, rows) in &self.0 {
            let mut open = tx.open_table(definition(table))?;
            for (key, row) in rows {
                match row {
                    Some(row) => drop(open.insert(key.as_str(), row.as_slice())?),
                    None => drop(open.remove(key.as_str())?),
                }
            }
        }
        Ok(())
    }
}

/// Changes that are committed together: what is on disk, and the changes that
/// were made since, one after the other.
pub(super) struct Batch {
    base: Reader,
    made: Rows,
}

impl Batch {
    pub(super) fn new(base: Reader) -> Self {
        Self {
            base,
            made: Rows::default(),
        }
    }

    /// Carries out one change; where it returns an error, or panics, nothing is
    /// left of it.
    pub(super) fn run<T>(
        &mut self,
        change: impl FnOnce(&Tx<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let tx = Tx {
            before: self,
            own: RefCell::default(),
        };
        let out = change(&tx)?;
        let own = tx.own.into_inner();
        self.made.merge(own);
        Ok(out)
    }

    /// All that was changed.
    pub(super) fn into_rows(self) -> Rows {
        self.made
    }
}

/// A change in the making. It sees what is committed, the changes before it, and
/// its own.
pub struct Tx<'a> {
    before: &'a Batch,
    own: RefCell<Rows>,
}

impl Tx<'_> {
    /// The row under `key`, as this change sees it.
    ///
    /// # Errors
    /// The row cannot be read, or the disk.
    pub fn get<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
        key: &str,
    ) -> Result<Option<V>, LedgerError> {
        if let Some(row) = self.own.borrow().get(table.name, key) {
            return row.map(|row| table.decode(row)).transpose();
        }
        if let Some(row) = self.before.made.get(table.name, key) {
            return row.map(|row| table.decode(row)).transpose();
        }
        self.before.base.get(table, key)
    }

    /// Puts `row` under `key`, in place of what was there.
    ///
    /// # Errors
    /// The row cannot be written down.
    pub fn put<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
        key: &str,
        row: &V,
    ) -> Result<(), LedgerError> {
        let row = table.encode(row)?;
        self.own.borrow_mut().set(table.name, key, Some(row));
        Ok(())
    }

    /// Removes what is under `key`.
    ///
    /// # Errors
    /// None today; the disk is asked at the commit.
    pub fn delete<V>(&self, table: &Table<V>, key: &str) -> Result<(), LedgerError> {
        self.own.borrow_mut().set(table.name, key, None);
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
        let mut rows: BTreeMap<_, _> = self.before.base.all(table)?.into_iter().collect();
        for made in [&self.before.made, &*self.own.borrow()] {
            for (key, row) in made.of(table) {
                match row {
                    Some(row) => drop(rows.insert(key.to_owned(), table.decode(row)?)),
                    None => drop(rows.remove(key)),
                }
            }
        }
        Ok(rows.into_iter().collect())
    }

    /// What this change and those before it, not yet on disk, made of a table:
    /// later ones last, a key maybe twice; `None` where a row was deleted.
    ///
    /// # Errors
    /// A row cannot be read.
    pub(super) fn made<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
    ) -> Result<Vec<(String, Option<V>)>, LedgerError> {
        let own = self.own.borrow();
        let made = self.before.made.of(table).chain(own.of(table));
        made.map(|(key, row)| {
            let row = row.map(|row| table.decode(row)).transpose()?;
            Ok((key.to_owned(), row))
        })
        .collect()
    }
}

/// Where single rows can be read: a change in the making, or a look.
pub trait Look {
    /// The row under `key`.
    ///
    /// # Errors
    /// The row cannot be read, or the disk.
    fn look<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
        key: &str,
    ) -> Result<Option<V>, LedgerError>;
}

impl Look for Tx<'_> {
    fn look<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
        key: &str,
    ) -> Result<Option<V>, LedgerError> {
        self.get(table, key)
    }
}

impl Look for Reader {
    fn look<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
        key: &str,
    ) -> Result<Option<V>, LedgerError> {
        self.get(table, key)
    }
}

type Open = ReadOnlyTable<&'static str, &'static [u8]>;

/// A consistent look.
pub struct Reader {
    inner: ReadTransaction,
    /// Tables looked at before; `None` where there is none yet.
    open: RefCell<BTreeMap<&'static str, Option<Rc<Open>>>>,
}

impl Reader {
    pub(super) fn new(inner: ReadTransaction) -> Self {
        Self {
            inner,
            open: RefCell::default(),
        }
    }

    /// Looks at an open table; `None` where it was never written to.
    fn within<T>(
        &self,
        table: &'static str,
        look: impl FnOnce(&Open) -> Result<T, LedgerError>,
    ) -> Result<Option<T>, LedgerError> {
        let known = self.open.borrow().get(table).cloned();
        let open = match known {
            Some(open) => open,
            None => {
                let open = match self.inner.open_table(definition(table)) {
                    Ok(open) => Some(Rc::new(open)),
                    Err(TableError::TableDoesNotExist(_)) => None,
                    Err(error) => return Err(error.into()),
                };
                self.open.borrow_mut().insert(table, open.clone());
                open
            }
        };
        open.map(|open| look(&open)).transpose()
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
        let row = self.within(table.name, |open| {
            let row = open.get(key)?;
            row.map(|row| table.decode(row.value())).transpose()
        })?;
        Ok(row.flatten())
    }

    /// All rows, by key.
    ///
    /// # Errors
    /// A row cannot be read, or the disk.
    pub fn all<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
    ) -> Result<Vec<(String, V)>, LedgerError> {
        let mut rows = Vec::new();
        self.each(table, "", |key, row| {
            rows.push((key.to_owned(), row?));
            Ok(true)
        })?;
        Ok(rows)
    }

    /// Shows the rows from the key `from` on, by key, until `look` says `false`.
    /// A row that cannot be read is shown as an error.
    ///
    /// # Errors
    /// What `look` returns, or the disk.
    pub fn each<V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<V>,
        from: &str,
        mut look: impl FnMut(&str, Result<V, LedgerError>) -> Result<bool, LedgerError>,
    ) -> Result<(), LedgerError> {
        self.within(table.name, |open| {
            for row in open.range::<&str>((Bound::Included(from), Bound::Unbounded))? {
                let (key, row) = row?;
                if !look(key.value(), table.decode(row.value()))? {
                    break;
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// The keys that begin with `prefix`, in order, without a look at their rows.
    ///
    /// # Errors
    /// The disk.
    pub fn keys<V>(&self, table: &Table<V>, prefix: &str) -> Result<Vec<String>, LedgerError> {
        let keys = self.within(table.name, |open| {
            let mut keys = Vec::new();
            for row in open.range::<&str>((Bound::Included(prefix), Bound::Unbounded))? {
                let (key, _) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                keys.push(key.value().to_owned());
            }
            Ok(keys)
        })?;
        Ok(keys.unwrap_or_default())
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// The disk.
    pub fn count<V>(&self, table: &Table<V>) -> Result<u64, LedgerError> {
        let count = self.within(table.name, |open| Ok(open.len()?))?;
        Ok(count.unwrap_or_default())
    }
}
