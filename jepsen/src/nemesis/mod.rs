//! Nemesis.
