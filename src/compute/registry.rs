//! Which backends this provider has. A workload stays with the backend that
//! made it: its handle says which.

use std::collections::BTreeMap;
use std::fmt;

use super::{Handle, SharedBackend};
use crate::core::ids::Name;

/// Why a set of backends or a look-up in it is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// A provider without a backend can run nothing.
    #[error("no backend is configured")]
    Empty,
    /// Two backends have one name, so handles would be ambiguous.
    #[error("two backends are named {0}")]
    Duplicate(Name),
    /// No backend of this name is configured (any more).
    #[error("there is no backend named {0}")]
    Unknown(Name),
}

/// The configured backends, at least one, by name.
#[derive(Clone)]
pub struct Registry {
    default: Name,
    first: SharedBackend,
    all: BTreeMap<Name, SharedBackend>,
}

impl Registry {
    /// The registry of `backends`; the first is the default.
    ///
    /// # Errors
    /// There is none, or two have one name.
    pub fn new(backends: impl IntoIterator<Item = SharedBackend>) -> Result<Self, RegistryError> {
        let mut backends = backends.into_iter();
        let mut registry = Self::of(backends.next().ok_or(RegistryError::Empty)?);
        for backend in backends {
            registry.add(backend)?;
        }
        Ok(registry)
    }

    /// The registry of one backend.
    pub fn of(backend: SharedBackend) -> Self {
        let name = backend.name().clone();
        Self {
            default: name.clone(),
            first: backend.clone(),
            all: BTreeMap::from([(name, backend)]),
        }
    }

    fn add(&mut self, backend: SharedBackend) -> Result<(), RegistryError> {
        let name = backend.name().clone();
        if self.all.contains_key(&name) {
            return Err(RegistryError::Duplicate(name));
        }
        self.all.insert(name, backend);
        Ok(())
    }

    /// The backend of this name.
    pub fn get(&self, name: &Name) -> Option<&SharedBackend> {
        self.all.get(name)
    }

    /// The backend for new workloads.
    pub fn default(&self) -> &SharedBackend {
        &self.first
    }

    /// The backend that made `handle`.
    ///
    /// # Errors
    /// It is not configured any more: nothing is known about the workload, and
    /// least of all that it is gone.
    pub fn owner(&self, handle: &Handle) -> Result<&SharedBackend, RegistryError> {
        self.get(&handle.backend)
            .ok_or_else(|| RegistryError::Unknown(handle.backend.clone()))
    }

    /// All backends, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &SharedBackend)> {
        self.all.iter()
    }

    /// Names of all backends.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.all.keys()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("default", &self.default)
            .field("all", &self.all.keys())
            .finish()
    }
}
