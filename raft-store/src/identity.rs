//! Identity: whose data folder this is. One process at a time, one store of one cluster for ever.
//!
//! ```text
//! FORMAT    a number and a line feed: the format of everything in the folder, as docs/formats.md describes it
//! TOKEN     16 random bytes, made with the folder: a folder that was wiped is another one
//! LOCK      held by flock while a process runs; the kernel frees it with the process
//! IDENTITY  crc32c:u32 BE, then codec(IdentityRecord); absent before `cluster init`
//! ```
//!
//! # Invariants
//! I15: the identity is written before the first replica is born, and never changes to another cluster or store.
//! A replica is listed in `born` before it is initialised: an empty log under a replica that is listed and whose
//! group is closed is rot, never a new start.
//!
//! # Failure
//! The file is written beside, fsynced, renamed, and the folder fsynced: a crash leaves the old or the new one.
//! A file that does not check is a refusal to start, never an empty identity.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use seriatim_proto::codec;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{ClusterId, GroupId, ReplicaId, StoreId};
use seriatim_proto::meta::{ReplicaRecord, StoreRecord, StoreToken};

use crate::log_record::ReplicaKey;

/// Who this store is, as written to disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// its cluster
    pub(crate) cluster: ClusterId,
    /// its id
    pub(crate) store: StoreId,
    /// where others reach it; recorded in group 0 too
    pub(crate) address: String,
    /// set when this folder must never be started again
    pub(crate) poisoned: bool,
    /// the stores of group 0 as `cluster init` named them
    pub(crate) meta_stores: Vec<StoreRecord>,
    /// the replicas of group 0 as `cluster init` named them, but for one of this store that was removed
    pub(crate) meta_replicas: Vec<ReplicaRecord>,
    /// replicas that were born in this folder
    pub(crate) born: Vec<BornReplica>,
}

/// A replica that lives in this folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BornReplica {
    /// of which group
    pub(crate) group: GroupId,
    /// which
    pub(crate) replica: ReplicaId,
    /// what has become of it
    pub(crate) stage: Stage,
}

impl BornReplica {
    /// Has it taken part? Then an empty log is rot.
    pub(crate) fn is_initialised(&self) -> bool {
        self.stage != Stage::Born
    }

    /// Does it never run again?
    pub(crate) fn is_dead(&self) -> bool {
        match self.stage {
            Stage::Born | Stage::Initialised => false,
            Stage::Removed | Stage::Rotten => true,
        }
    }
}

/// What has become of a replica. On disk one byte: 0, 1, 2, 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// it may have nothing yet
    Born,
    /// it has been initialised, or has taken part
    Initialised,
    /// it is being removed: parts of it may be gone, and it never runs again
    Removed,
    /// it is not what was promised: parts of it may be gone, and it never runs again; group 0 may still name it
    Rotten,
}

impl Identity {
    /// The replica, if it was born in this folder.
    pub(crate) fn born(&self, group: GroupId, replica: ReplicaId) -> Option<BornReplica> {
        self.born.iter().copied().find(|born| born.group == group && born.replica == replica)
    }
    /// This store's replica of group 0 that starts without a question: one that has taken part, or the one that
    /// `cluster init` named.
    pub(crate) fn meta_replica(&self) -> Option<ReplicaId> {
        let took_part = |born: &&BornReplica| born.group == GroupId::META && born.stage == Stage::Initialised;
        let took_part = self.born.iter().filter(took_part).map(|born| born.replica).max();
        let named = || self.meta_replicas.iter().find(|replica| replica.store == self.store).map(|replica| replica.id);
        took_part.or_else(named)
    }

    /// Do both name the same replicas of group 0, as far as this store's vote goes? A replica of this store that was
    /// removed is named no more.
    fn agrees(&self, new: &Identity) -> bool {
        let ours = |identity: &Identity| identity.meta_replicas.iter().find(|it| it.store == self.store).copied();
        let others = |identity: &Identity| -> BTreeSet<ReplicaRecord> {
            identity.meta_replicas.iter().filter(|it| it.store != self.store).copied().collect()
        };
        match (ours(self), ours(new)) {
            // It votes by neither.
            (None, None) => true,
            (Some(old), new_one) => new_one == Some(old) && others(self) == others(new),
            (None, Some(_)) => others(self) == others(new),
        }
    }

    /// Does another replica of the group live here than `replica`?
    pub(crate) fn has_other(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.born.iter().any(|born| born.group == group && born.replica != replica && !born.is_dead())
    }
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The folder or a file in it cannot be read or written.
    #[error("use the data folder at {path}")]
    Io {
        /// what was touched
        path: PathBuf,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// Another process runs on it.
    #[error("lock the data folder: another process runs on {path}")]
    Locked {
        /// the folder
        path: PathBuf,
    },
    /// The identity file is damaged.
    #[error("read the identity file {path}: {what}")]
    Damaged {
        /// the file
        path: PathBuf,
        /// what is wrong
        what: String,
    },
    /// Damaged databases are there, and no identity file: it was lost, or there never was one.
    #[error(
        "set damaged files aside: {path} has no IDENTITY, so nobody knows whose they are: put it back, or take an empty \
         folder if it never had one"
    )]
    Nobodys {
        /// the folder
        path: PathBuf,
    },
    /// Another version made the folder.
    #[error(
        "read the data folder {path}: its format is {found}, and this version reads {} only; nothing was touched: keep it \
         for the version that made it, and start this one in an empty folder",
        FORMAT
    )]
    Format {
        /// the folder
        path: PathBuf,
        /// its format; folders from before there was a number have the first one
        found: u32,
    },
    /// The store was taken out of service for ever.
    #[error("start a poisoned store: {path} belongs to a removed store")]
    Poisoned {
        /// the folder
        path: PathBuf,
    },
    /// The folder belongs to somebody else.
    #[error("adopt the folder of store {store} of cluster {cluster} for another one")]
    Other {
        /// whose it is
        cluster: ClusterId,
        /// whose it is
        store: StoreId,
    },
    /// Group 0 was begun with other replicas.
    #[error("take part in another group 0: store {store} has adopted one with other replicas")]
    OtherMeta {
        /// whose folder it is
        store: StoreId,
    },
    /// The folder's store is known to others under another address.
    #[error("start under the address {address}: the cluster knows this store as {recorded}")]
    Address {
        /// what was configured
        address: String,
        /// what group 0 records
        recorded: String,
    },
}

impl IdentityError {
    /// Its code, for programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            IdentityError::Io { .. } | IdentityError::Damaged { .. } | IdentityError::Nobodys { .. } => {
                ErrorCode::Internal
            }
            IdentityError::Format { .. } => ErrorCode::Unsupported,
            IdentityError::Locked { .. } => ErrorCode::FolderInUse,
            IdentityError::Poisoned { .. }
            | IdentityError::Other { .. }
            | IdentityError::OtherMeta { .. }
            | IdentityError::Address { .. } => ErrorCode::WrongStore,
        }
    }
}

/// A locked data folder and the identity in it.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    identity: Option<Identity>,
    token: StoreToken,
    /// Held for as long as the process uses the folder.
    _lock: File,
}

impl DataFolder {
    /// Makes the folder if needed, locks it and reads the identity.
    pub(crate) fn open(path: &Path) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(io)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("LOCK")).map_err(io)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => IdentityError::Locked { path: path.to_owned() },
            errno => io(errno.into()),
        })?;
        check_format(path)?;
        let identity = read(&path.join(FILE))?;
        if identity.as_ref().is_some_and(|identity| identity.poisoned) {
            return Err(IdentityError::Poisoned { path: path.to_owned() });
        }
        let token = token(path)?;
        Ok(Self { path: path.to_owned(), identity, token, _lock: lock })
    }

    /// Takes an identity. Repeating the same one changes nothing; another one is refused, also one that names other
    /// replicas of group 0 if this store has one by either: two sets could each elect a leader.
    pub(crate) fn adopt(&mut self, new: Identity) -> Result<(), IdentityError> {
        if let Some(old) = &self.identity {
            if old.cluster != new.cluster || old.store != new.store {
                return Err(IdentityError::Other { cluster: old.cluster, store: old.store });
            }
            if !old.agrees(&new) {
                return Err(IdentityError::OtherMeta { store: old.store });
            }
            return Ok(());
        }
        self.write(new)
    }

    /// Notes that a replica is born here, before it is initialised.
    pub(crate) fn note_born(&mut self, group: GroupId, replica: ReplicaId) -> Result<(), IdentityError> {
        let mut identity = self.identity.clone().expect("replicas are born only by stores that have an identity");
        if identity.born(group, replica).is_some() {
            return Ok(());
        }
        identity.born.push(BornReplica { group, replica, stage: Stage::Born });
        self.write(identity)
    }

    /// Notes that a replica that was born here has been initialised, or has taken part.
    pub(crate) fn note_initialised(&mut self, group: GroupId, replica: ReplicaId) -> Result<(), IdentityError> {
        let mut identity = self.identity.clone().expect("replicas are born only by stores that have an identity");
        match identity.born.iter_mut().find(|born| born.group == group && born.replica == replica) {
            Some(born) if born.stage == Stage::Born => born.stage = Stage::Initialised,
            _ => return Ok(()),
        }
        self.write(identity)
    }

    /// Notes that a replica is about to be removed, before anything of it is. False if it does not live here.
    pub(crate) fn note_removing(&mut self, group: GroupId, replica: ReplicaId) -> Result<bool, IdentityError> {
        let mut identity = self.identity.clone().expect("replicas are born only by stores that have an identity");
        let place = |born: &&mut BornReplica| born.group == group && born.replica == replica;
        let Some(born) = identity.born.iter_mut().find(place) else { return Ok(false) };
        if born.stage == Stage::Removed {
            return Ok(true);
        }
        born.stage = Stage::Removed;
        // The one that `cluster init` named is never born again (I15).
        identity.meta_replicas.retain(|named| group != GroupId::META || named.id != replica);
        self.write(identity).map(|()| true)
    }

    /// Notes that a replica is rotten, also one of which nothing is here. One that is being removed stays that.
    pub(crate) fn note_rotten(&mut self, group: GroupId, replica: ReplicaId) -> Result<(), IdentityError> {
        let mut identity = self.identity.clone().expect("replicas are born only by stores that have an identity");
        match identity.born.iter_mut().find(|born| born.group == group && born.replica == replica) {
            Some(born) if born.is_dead() => return Ok(()),
            Some(born) => born.stage = Stage::Rotten,
            None => identity.born.push(BornReplica { group, replica, stage: Stage::Rotten }),
        }
        self.write(identity)
    }

    /// Notes that all replicas of this folder are rotten.
    pub(crate) fn note_all_rotten(&mut self) -> Result<(), IdentityError> {
        let Some(mut identity) = self.identity.clone() else { return Ok(()) };
        identity.born.iter_mut().filter(|born| !born.is_dead()).for_each(|born| born.stage = Stage::Rotten);
        self.write(identity)
    }

    /// Notes that nothing of a replica is left here.
    pub(crate) fn note_removed(&mut self, group: GroupId, replica: ReplicaId) -> Result<(), IdentityError> {
        let mut identity = self.identity.clone().expect("replicas are born only by stores that have an identity");
        if identity.born(group, replica).is_none() {
            return Ok(());
        }
        identity.born.retain(|born| (born.group, born.replica) != (group, replica));
        self.write(identity)
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replicas that never run again: parts of them may be gone.
    pub(crate) fn dead(&self) -> BTreeSet<ReplicaKey> {
        let born = self.identity.iter().flat_map(|identity| &identity.born);
        let dead = born.filter(|born| born.is_dead());
        dead.map(|born| ReplicaKey { group: born.group, replica: born.replica }).collect()
    }

    /// What tells this folder from one that was wiped.
    pub(crate) fn token(&self) -> StoreToken {
        self.token
    }

    /// Refuses a start under another address than the cluster knows.
    pub(crate) fn check_address(&self, address: &str) -> Result<(), IdentityError> {
        match &self.identity {
            Some(identity) if identity.address != address => {
                Err(IdentityError::Address { address: address.to_owned(), recorded: identity.address.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Who this store is; `None` before `cluster init`.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    fn write(&mut self, identity: Identity) -> Result<(), IdentityError> {
        let body = codec::encode(&identity);
        let mut bytes = crc32c::crc32c(&body).to_be_bytes().to_vec();
        bytes.extend_from_slice(&body);
        write_durable(&self.path, FILE, &bytes)
            .map_err(|source| IdentityError::Io { path: self.path.join(FILE), source })?;
        self.identity = Some(identity);
        Ok(())
    }
}

/// Replaces a file so that a crash leaves the old or the new content.
pub(crate) fn write_durable(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = folder.join(format!("{name}.new"));
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// Refuses a folder of another format, before anything else of it is read; gives a new one the format of this version.
fn check_format(folder: &Path) -> Result<(), IdentityError> {
    let path = folder.join(FORMAT_FILE);
    let io = |source| IdentityError::Io { path: path.clone(), source };
    let found = match fs::read(&path) {
        Ok(bytes) => {
            let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
            let damaged = || IdentityError::Damaged { path: path.clone(), what: "a number is expected".to_owned() };
            number.ok_or_else(damaged)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_old = [TOKEN_FILE, FILE]
                .iter()
                .try_fold(false, |any, name| Ok::<_, io::Error>(any || folder.join(name).try_exists()?));
            if !is_old.map_err(io)? {
                return write_durable(folder, FORMAT_FILE, format!("{FORMAT}\n").as_bytes()).map_err(io);
            }
            FORMAT_FIRST
        }
        Err(source) => return Err(io(source)),
    };
    match found {
        FORMAT => Ok(()),
        found => Err(IdentityError::Format { path: folder.to_owned(), found }),
    }
}

/// The folder's token, made on first start.
fn token(folder: &Path) -> Result<StoreToken, IdentityError> {
    let path = folder.join(TOKEN_FILE);
    match fs::read(&path) {
        Ok(bytes) => match bytes.as_slice().try_into() {
            Ok(bytes) => Ok(StoreToken(bytes)),
            Err(_) => Err(IdentityError::Damaged { path, what: "16 bytes are expected".to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token: [u8; 16] = rand::random();
            write_durable(folder, TOKEN_FILE, &token).map_err(|source| IdentityError::Io { path, source })?;
            Ok(StoreToken(token))
        }
        Err(source) => Err(IdentityError::Io { path, source }),
    }
}

/// The identity in a file, if there is one.
pub(crate) fn read(path: &Path) -> Result<Option<Identity>, IdentityError> {
    let damaged = |what: &str| IdentityError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Io { path: path.to_owned(), source }),
    };
    let (crc, body) = bytes.split_first_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
        return Err(damaged("the checksum does not match"));
    }
    codec::decode(body).map(Some).map_err(|error| damaged(&error.to_string()))
}

/// The identity's file.
pub(crate) const FILE: &str = "IDENTITY";
const TOKEN_FILE: &str = "TOKEN";
const FORMAT_FILE: &str = "FORMAT";
/// Of everything in the folder. It rises when an older version's bytes would be read as something else.
const FORMAT: u32 = 2;
/// Of folders without the file.
const FORMAT_FIRST: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: u8, store: u64) -> Identity {
        Identity {
            cluster: ClusterId([cluster; 16]),
            store: StoreId(store),
            address: "127.0.0.1:1".into(),
            poisoned: false,
            meta_stores: vec![],
            meta_replicas: vec![ReplicaRecord { id: ReplicaId(7), store: StoreId(store) }],
            born: vec![],
        }
    }

    #[test]
    fn a_folder_keeps_its_first_identity() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = DataFolder::open(dir.path()).unwrap();
        assert_eq!(folder.identity(), None);
        folder.adopt(identity(1, 1)).unwrap();
        folder.adopt(identity(1, 1)).unwrap();
        assert!(matches!(folder.adopt(identity(2, 1)), Err(IdentityError::Other { .. })));
        assert!(matches!(folder.adopt(identity(1, 2)), Err(IdentityError::Other { .. })));
        folder.note_born(GroupId(3), ReplicaId(9)).unwrap();
        drop(folder);
        let folder = DataFolder::open(dir.path()).unwrap();
        let born = BornReplica { group: GroupId(3), replica: ReplicaId(9), stage: Stage::Born };
        assert_eq!(folder.identity().unwrap().born(GroupId(3), ReplicaId(9)), Some(born));
        assert_eq!(folder.identity().unwrap().meta_replica(), Some(ReplicaId(7)));
        assert!(matches!(folder.check_address("127.0.0.1:2"), Err(IdentityError::Address { .. })));
    }

    #[test]
    fn a_folder_of_another_version_is_refused_and_not_touched() {
        let names =
            |dir: &Path| -> BTreeSet<_> { fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect() };
        let dir = tempfile::tempdir().unwrap();
        let mut folder = DataFolder::open(dir.path()).unwrap();
        folder.adopt(identity(1, 1)).unwrap();
        drop(folder);
        let file = dir.path().join(FORMAT_FILE);
        assert_eq!(fs::read(&file).unwrap(), b"2\n");
        drop(DataFolder::open(dir.path()).unwrap());
        for (content, expected) in
            [(Some("1\n"), Some(1)), (Some("3\n"), Some(3)), (Some("2"), None), (Some(""), None), (None, Some(1))]
        {
            match content {
                Some(content) => fs::write(&file, content).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let before = names(dir.path());
            match (DataFolder::open(dir.path()).unwrap_err(), expected) {
                (IdentityError::Format { found, .. }, Some(expected)) => assert_eq!(found, expected),
                (IdentityError::Damaged { path, .. }, None) => assert_eq!(path, file),
                (other, _) => panic!("{content:?}: {other}"),
            }
            assert_eq!(names(dir.path()), before);
        }
        // A crash may have left a folder without a token: it is new.
        fs::write(&file, "2\n").unwrap();
        fs::remove_file(dir.path().join(TOKEN_FILE)).unwrap();
        drop(DataFolder::open(dir.path()).unwrap());
    }

    #[test]
    fn no_store_takes_part_in_two_groups_0() {
        let named = |stores: &[u64]| -> Vec<ReplicaRecord> {
            stores.iter().map(|id| ReplicaRecord { id: ReplicaId(*id), store: StoreId(*id) }).collect()
        };
        let of = |store: u64, stores: &[u64]| Identity { meta_replicas: named(stores), ..identity(1, store) };
        let adopt_after = |store: u64, first: &[u64], then: &[u64]| {
            let dir = tempfile::tempdir().unwrap();
            let mut folder = DataFolder::open(dir.path()).unwrap();
            folder.adopt(of(store, first)).unwrap();
            let again = folder.adopt(of(store, then));
            assert_eq!(folder.identity().unwrap().meta_replicas, named(first), "what was adopted stays");
            again
        };
        let refused = |result| matches!(result, Err(IdentityError::OtherMeta { .. }));
        assert!(adopt_after(1, &[1, 2, 3], &[3, 2, 1]).is_ok());
        assert!(refused(adopt_after(1, &[1, 2, 3], &[1, 2, 4])));
        assert!(refused(adopt_after(1, &[1, 2, 3], &[1])));
        assert!(refused(adopt_after(1, &[1, 2, 3], &[2, 3, 4])), "it votes by the first");
        assert!(refused(adopt_after(4, &[1, 2, 3], &[2, 3, 4])), "it would vote by the second");
        // One that joined later is told of group 0 as it is then.
        assert!(adopt_after(9, &[1, 2, 3], &[2, 3, 11]).is_ok());
        // Its own was rebuilt since.
        let dir = tempfile::tempdir().unwrap();
        let mut folder = DataFolder::open(dir.path()).unwrap();
        folder.adopt(of(1, &[1, 2, 3])).unwrap();
        folder.note_born(GroupId::META, ReplicaId(1)).unwrap();
        folder.note_removing(GroupId::META, ReplicaId(1)).unwrap();
        folder.adopt(of(1, &[1, 2, 3])).unwrap();
    }

    #[test]
    fn a_replica_that_is_being_removed_is_noted_first_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = DataFolder::open(dir.path()).unwrap();
        folder.adopt(identity(1, 1)).unwrap();
        let (group, replica) = (GroupId(3), ReplicaId(9));
        assert!(!folder.note_removing(group, replica).unwrap(), "it never lived here");
        folder.note_born(group, replica).unwrap();
        assert!(folder.dead().is_empty());
        assert!(folder.note_removing(group, replica).unwrap());
        // What was under way meanwhile.
        folder.note_initialised(group, replica).unwrap();
        folder.note_born(group, replica).unwrap();
        drop(folder);
        let mut folder = DataFolder::open(dir.path()).unwrap();
        assert_eq!(folder.dead(), [ReplicaKey { group, replica }].into());
        assert!(folder.note_removing(group, replica).unwrap());
        folder.note_removed(group, replica).unwrap();
        assert!(folder.dead().is_empty() && folder.identity().unwrap().born(group, replica).is_none());
    }

    #[test]
    fn the_stage_is_written_as_the_flag_that_it_was() {
        let replica = |stage| codec::encode(&BornReplica { group: GroupId(3), replica: ReplicaId(9), stage });
        assert_eq!(replica(Stage::Born), codec::encode(&(GroupId(3), ReplicaId(9), false)));
        assert_eq!(replica(Stage::Initialised), codec::encode(&(GroupId(3), ReplicaId(9), true)));
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _folder = DataFolder::open(dir.path()).unwrap();
        assert!(matches!(DataFolder::open(dir.path()), Err(IdentityError::Locked { .. })));
    }

    #[test]
    fn a_damaged_identity_is_no_empty_identity() {
        let dir = tempfile::tempdir().unwrap();
        DataFolder::open(dir.path()).unwrap().adopt(identity(1, 1)).unwrap();
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(DataFolder::open(dir.path()), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn a_poisoned_store_never_starts() {
        let dir = tempfile::tempdir().unwrap();
        DataFolder::open(dir.path()).unwrap().adopt(Identity { poisoned: true, ..identity(1, 1) }).unwrap();
        assert!(matches!(DataFolder::open(dir.path()), Err(IdentityError::Poisoned { .. })));
    }
}
