//! The fake passes the suite, and the suite notices a fake that is wrong.

mod conforms;
mod faults;
mod mutants;
mod shell;
