//! Broken: what the check looks for, as numbered in docs/invariants.md.

/// What does not hold.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Broken {
    /// A seq or a number twice.
    I1(&'static str),
    /// Real-time order of sends.
    I2(&'static str),
    /// Two live epochs, or a write under a stale one.
    I3(&'static str),
    /// `trim <= tail <= ceiling`, and nothing falls.
    I4(&'static str),
    /// The links between entries.
    I5(&'static str),
    /// One message per id.
    I7(&'static str),
    /// One order for all members.
    I8(&'static str),
    /// Each inbox has each entry once.
    I9(&'static str),
    /// A client heard what is not so.
    Answer(&'static str),
    /// Nothing is under way, and somebody waits.
    Stuck(&'static str),
    /// A core says that something happened that no correct cluster does.
    Alarm(String),
    /// An assertion of a core.
    Panic(String),
}
