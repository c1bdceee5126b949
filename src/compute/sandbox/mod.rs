//! The embedded backend: workloads in namespaces of their own.

pub mod image;
