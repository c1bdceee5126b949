//! Against programs that others wrote.

mod gateway;
mod ssh_client;
