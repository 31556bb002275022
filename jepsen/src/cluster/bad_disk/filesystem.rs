//! Filesystem: what the kernel asks, answered from the backing folder: nothing here knows of stores or faults but
//! the three places that ask [`Controls`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, OFlags};

use super::controls::{Controls, Mood, Verdict};
use super::tree::{Dirt, Tree};
use super::unsynced::Unsynced;

/// The kernel asks anew each time, so that a cut disk is never seen as it was.
const TTL: Duration = Duration::ZERO;
/// Numbers are never used again, so one generation is enough.
const GENERATION: Generation = Generation(0);
/// Unit in which space is told.
const BLOCK_BYTES: u32 = 4096;

/// What the threads of a disk, and who controls it, share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) controls: Controls,
    tree: Mutex<Tree>,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    next_handle: AtomicU64,
}

#[derive(Debug)]
struct Handle {
    file: File,
    dirt: Dirt,
}

impl Shared {
    pub(super) fn new(backing: PathBuf) -> Self {
        Self {
            controls: Controls::default(),
            tree: Mutex::new(Tree::new(backing)),
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
        }
    }

    /// Takes from every file what was not fsynced. Nobody may use the disk any more.
    pub(super) fn lose(&self) -> anyhow::Result<u64> {
        let mut lost = 0;
        for (path, dirt) in self.tree.lock().dirty() {
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.with_context(|| format!("open {}", path.display()))?;
            lost += dirt.lock().lose(&file).with_context(|| format!("take back {}", path.display()))?;
        }
        Ok(lost)
    }

    fn path(&self, number: INodeNo) -> io::Result<PathBuf> {
        self.tree.lock().path(number.0).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        self.tree.lock().child(parent.0, name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn found(&self, path: &Path) -> io::Result<FileAttr> {
        let metadata = fs::symlink_metadata(path)?;
        let number = self.tree.lock().number(path, metadata.ino());
        Ok(attributes(number, &metadata))
    }

    fn handle(&self, handle: FileHandle) -> io::Result<Arc<Handle>> {
        let found = self.handles.lock().get(&handle.0).cloned();
        found.ok_or_else(|| rustix::io::Errno::BADF.into())
    }

    fn keep(&self, file: File, dirt: Dirt) -> FileHandle {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.lock().insert(number, Arc::new(Handle { file, dirt }));
        FileHandle(number)
    }

    fn space_left(&self) -> io::Result<()> {
        match self.controls.before_write() {
            Verdict::Go => Ok(()),
            Verdict::Eio => Err(rustix::io::Errno::IO.into()),
            Verdict::Enospc => Err(rustix::io::Errno::NOSPC.into()),
        }
    }

    fn create(&self, path: &Path, mode: u32, flags: i32) -> io::Result<(FileAttr, FileHandle)> {
        self.space_left()?;
        let new = !path.exists();
        let truncate = OFlags::from_bits_retain(flags as u32).contains(OFlags::TRUNC);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(mode).open(path)?;
        let attributes = self.found(path)?;
        let dirt = self.tree.lock().dirt(attributes.ino.0);
        if new {
            *dirt.lock() = Unsynced::of_new_file();
        } else if truncate {
            resize(&file, &dirt, 0)?;
        }
        Ok((attributes, self.keep(file, dirt)))
    }

    fn resize(&self, number: INodeNo, handle: Option<FileHandle>, length: u64) -> io::Result<()> {
        self.space_left()?;
        if let Some(handle) = handle {
            let handle = self.handle(handle)?;
            return resize(&handle.file, &handle.dirt, length);
        }
        let file = OpenOptions::new().read(true).write(true).open(self.path(number)?)?;
        let dirt = self.tree.lock().dirt(number.0);
        resize(&file, &dirt, length)
    }

    fn set_attributes(
        &self,
        number: INodeNo,
        mode: Option<u32>,
        size: Option<u64>,
        handle: Option<FileHandle>,
    ) -> io::Result<FileAttr> {
        if let Some(size) = size {
            self.resize(number, handle, size)?;
        }
        if let Some(mode) = mode {
            fs::set_permissions(self.path(number)?, fs::Permissions::from_mode(mode))?;
        }
        self.attributes(number, handle)
    }

    fn attributes(&self, number: INodeNo, handle: Option<FileHandle>) -> io::Result<FileAttr> {
        // A deleted file that is still open has no path.
        let metadata = match handle {
            Some(handle) => self.handle(handle)?.file.metadata()?,
            None => fs::symlink_metadata(self.path(number)?)?,
        };
        Ok(attributes(number.0, &metadata))
    }

    fn open(&self, number: INodeNo, flags: OpenFlags) -> io::Result<FileHandle> {
        let mut options = OpenOptions::new();
        // What is overwritten is read before, so a file open for writing is open for reading too.
        options.read(true).write(flags.acc_mode() != OpenAccMode::O_RDONLY);
        let file = options.open(self.path(number)?)?;
        let dirt = self.tree.lock().dirt(number.0);
        Ok(self.keep(file, dirt))
    }

    fn read(&self, handle: FileHandle, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let handle = self.handle(handle)?;
        let mut bytes = vec![0; size as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match handle.file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn write(&self, handle: FileHandle, offset: u64, data: &[u8]) -> io::Result<()> {
        self.space_left()?;
        let handle = self.handle(handle)?;
        let mut dirt = handle.dirt.lock();
        dirt.before_write(&handle.file, offset, data.len() as u64)?;
        handle.file.write_all_at(data, offset)
    }

    fn fsync(&self, handle: FileHandle, data_only: bool) -> io::Result<()> {
        if self.controls.before_fsync() == Verdict::Eio {
            return Err(rustix::io::Errno::IO.into());
        }
        let handle = self.handle(handle)?;
        // Held over the fsync: a write in its middle would be neither synced nor noted as unsynced.
        let mut dirt = handle.dirt.lock();
        if data_only {
            handle.file.sync_data()?
        } else {
            handle.file.sync_all()?
        }
        dirt.synced();
        Ok(())
    }

    fn allocate(&self, handle: FileHandle, offset: u64, length: u64, mode: i32) -> io::Result<()> {
        self.space_left()?;
        let handle = self.handle(handle)?;
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        let mut dirt = handle.dirt.lock();
        if mode.contains(FallocateFlags::PUNCH_HOLE) || mode.contains(FallocateFlags::ZERO_RANGE) {
            dirt.before_write(&handle.file, offset, length)?;
        } else if !mode.contains(FallocateFlags::KEEP_SIZE) {
            dirt.before_resize(&handle.file, offset + length)?;
        }
        Ok(rustix::fs::fallocate(&handle.file, mode, offset, length)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        // The tree is locked over both, so that nobody finds one name under the number of the other.
        let mut tree = self.tree.lock();
        fs::rename(from, to)?;
        tree.rename(from, to);
        Ok(())
    }

    fn remove(&self, path: &Path, remove: fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut tree = self.tree.lock();
        remove(path)?;
        tree.remove(path);
        Ok(())
    }
}

fn resize(file: &File, dirt: &Dirt, length: u64) -> io::Result<()> {
    let mut dirt = dirt.lock();
    dirt.before_resize(file, length)?;
    file.set_len(length)
}

fn attributes(number: u64, metadata: &Metadata) -> FileAttr {
    let time = |seconds: i64, nanos: i64| {
        let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    };
    FileAttr {
        ino: INodeNo(number),
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: kind(metadata.file_type()),
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: u32::try_from(metadata.nlink()).unwrap_or(u32::MAX),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn kind(of: fs::FileType) -> FileType {
    match of {
        of if of.is_dir() => FileType::Directory,
        of if of.is_symlink() => FileType::Symlink,
        of if of.is_socket() => FileType::Socket,
        of if of.is_fifo() => FileType::NamedPipe,
        _ => FileType::RegularFile,
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or_else(
        || if error.kind() == io::ErrorKind::NotFound { Errno::ENOENT } else { Errno::EIO },
        Errno::from_i32,
    )
}

/// The kernel's side of a disk.
#[derive(Debug)]
pub(super) struct PassThrough {
    shared: Arc<Shared>,
}

impl PassThrough {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// Replies with a value in one way, or with an error.
macro_rules! answer {
    ($result:expr, $reply:ident, $value:ident => $said:expr) => {
        match $result {
            Ok($value) => $said,
            Err(error) => $reply.error(errno(&error)),
        }
    };
}

impl Filesystem for PassThrough {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.shared.child(parent, name).and_then(|path| self.shared.found(&path));
        answer!(found, reply, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        answer!(self.shared.attributes(ino, fh), reply, attr => reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer!(self.shared.set_attributes(ino, mode, size, fh), reply, attr => reply.attr(&TTL, &attr));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let made = self.shared.space_left().and_then(|()| self.shared.child(parent, name)).and_then(|path| {
            fs::create_dir(&path)?;
            self.shared.found(&path)
        });
        answer!(made, reply, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed =
            self.shared.child(parent, name).and_then(|path| self.shared.remove(&path, |path| fs::remove_file(path)));
        answer!(removed, reply, _done => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed =
            self.shared.child(parent, name).and_then(|path| self.shared.remove(&path, |path| fs::remove_dir(path)));
        answer!(removed, reply, _done => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let from = self.shared.child(parent, name);
        let renamed = from.and_then(|from| self.shared.rename(&from, &self.shared.child(newparent, newname)?));
        answer!(renamed, reply, _done => reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let linked = self.shared.path(ino).and_then(|from| {
            let to = self.shared.child(newparent, newname)?;
            fs::hard_link(from, &to)?;
            self.shared.found(&to)
        });
        answer!(linked, reply, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer!(self.shared.open(ino, flags), reply, handle => reply.opened(handle, FopenFlags::empty()));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.shared.child(parent, name).and_then(|path| self.shared.create(&path, mode & !umask, flags));
        answer!(made, reply, made => reply.created(&TTL, &made.0, GENERATION, made.1, FopenFlags::empty()));
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        answer!(self.shared.read(fh, offset, size), reply, bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let count = u32::try_from(data.len()).expect("the kernel's writes are some MiB at most");
        answer!(self.shared.write(fh, offset, data), reply, _done => reply.written(count));
    }

    fn flush(&self, _: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.handles.lock().remove(&fh.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        answer!(self.shared.fsync(fh, datasync), reply, _done => reply.ok());
    }

    fn fsyncdir(&self, _: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.shared.controls.before_fsync() {
            Verdict::Eio => reply.error(Errno::EIO),
            // Names are durable at once.
            Verdict::Go | Verdict::Enospc => reply.ok(),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.shared.path(ino).and_then(|path| {
            let mut names: Vec<(PathBuf, fs::FileType)> = Vec::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                names.push((entry.path(), entry.file_type()?));
            }
            // By name, so that an offset means the same in the next call.
            names.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(names)
        });
        answer!(listed, reply, names => {
            for (index, (path, of)) in (1_u64..).zip(names).skip_while(|(index, _)| *index <= offset) {
                // A file that went between the listing and now is left out.
                let Ok(attr) = self.shared.found(&path) else { continue };
                if reply.add(attr.ino, index, kind(of), path.file_name().unwrap_or_default()) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let path = self.shared.path(INodeNo::ROOT);
        let stat = path.and_then(|path| Ok(rustix::fs::statvfs(path)?));
        answer!(stat, reply, stat => {
            let free = if self.shared.controls.mood() == Mood::Full { 0 } else { stat.f_bavail };
            let block = u32::try_from(stat.f_frsize).unwrap_or(BLOCK_BYTES);
            reply.statfs(stat.f_blocks, free, free, stat.f_files, stat.f_ffree, block, 255, block);
        });
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer!(self.shared.allocate(fh, offset, length, mode), reply, _done => reply.ok());
    }
}
