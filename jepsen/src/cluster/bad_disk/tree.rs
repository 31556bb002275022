//! Tree: which number stands for which file of the backing folder.
//!
//! Numbers are our own and never used again: the backing file system gives the number of a deleted file to a new one,
//! and the kernel may still know the old.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::unsynced::Unsynced;

/// Number of the root.
pub(super) const ROOT: u64 = 1;

/// What of a file a power cut would take, shared by all its handles.
pub(super) type Dirt = Arc<Mutex<Unsynced>>;

/// A file or folder.
#[derive(Debug, Default)]
struct Node {
    /// number of the backing file system
    backing: u64,
    /// several where it is linked several times
    paths: Vec<PathBuf>,
    dirt: Dirt,
}

/// All files that the kernel has asked for.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    nodes: HashMap<u64, Node>,
    by_backing: HashMap<u64, u64>,
    next: u64,
}

impl Tree {
    /// Of a backing folder.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, nodes: HashMap::new(), by_backing: HashMap::new(), next: ROOT + 1 }
    }

    /// A path under which the file is found now; none for one that was deleted.
    pub(super) fn path(&self, number: u64) -> Option<PathBuf> {
        if number == ROOT {
            return Some(self.root.clone());
        }
        self.nodes.get(&number)?.paths.first().cloned()
    }

    /// The path of a name in a folder.
    pub(super) fn child(&self, parent: u64, name: &OsStr) -> Option<PathBuf> {
        self.path(parent).map(|path| path.join(name))
    }

    /// The number of the file found at a path, by its number in the backing file system.
    pub(super) fn number(&mut self, path: &Path, backing: u64) -> u64 {
        if path == self.root {
            return ROOT;
        }
        let number = *self.by_backing.entry(backing).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        let node = self.nodes.entry(number).or_insert_with(|| Node { backing, ..Node::default() });
        if !node.paths.iter().any(|known| known == path) {
            node.paths.push(path.to_owned());
        }
        number
    }

    /// What a power cut would take from a file.
    pub(super) fn dirt(&self, number: u64) -> Dirt {
        self.nodes.get(&number).map(|node| Arc::clone(&node.dirt)).unwrap_or_default()
    }

    /// A name was deleted.
    pub(super) fn remove(&mut self, path: &Path) {
        let gone: Vec<u64> = self
            .nodes
            .iter_mut()
            .filter_map(|(number, node)| {
                let before = node.paths.len();
                node.paths.retain(|known| known != path);
                (before > 0 && node.paths.is_empty()).then_some(*number)
            })
            .collect();
        for number in gone {
            // Open handles keep their dirt; the number is not found any more.
            if let Some(node) = self.nodes.remove(&number) {
                self.by_backing.remove(&node.backing);
            }
        }
    }

    /// A name was changed; what had the new name is gone.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        self.remove(to);
        for path in self.nodes.values_mut().flat_map(|node| &mut node.paths) {
            if let Ok(rest) = path.strip_prefix(from) {
                // Joining an empty rest would add a slash.
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
    }

    /// Files that have something to lose, and where they are.
    pub(super) fn dirty(&self) -> Vec<(PathBuf, Dirt)> {
        let dirty = self.nodes.values().filter(|node| !node.dirt.lock().is_clean());
        dirty.filter_map(|node| Some((node.paths.first()?.clone(), Arc::clone(&node.dirt)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        Tree::new(PathBuf::from("/backing"))
    }

    #[test]
    fn a_renamed_folder_takes_its_files_along() {
        let mut tree = tree();
        let folder = tree.number(Path::new("/backing/a"), 10);
        let file = tree.number(Path::new("/backing/a/f"), 11);
        tree.rename(Path::new("/backing/a"), Path::new("/backing/b"));
        assert_eq!(tree.path(folder), Some(PathBuf::from("/backing/b")));
        assert_eq!(tree.path(file), Some(PathBuf::from("/backing/b/f")));
        assert_eq!(tree.child(folder, OsStr::new("g")), Some(PathBuf::from("/backing/b/g")));
    }

    #[test]
    fn a_new_file_never_gets_the_number_of_a_deleted_one() {
        let mut tree = tree();
        let old = tree.number(Path::new("/backing/f"), 10);
        tree.remove(Path::new("/backing/f"));
        let new = tree.number(Path::new("/backing/g"), 10);
        assert_ne!(old, new);
        assert_eq!(tree.path(old), None);
    }

    #[test]
    fn a_linked_file_is_found_as_long_as_it_has_a_name() {
        let mut tree = tree();
        let file = tree.number(Path::new("/backing/f"), 10);
        assert_eq!(tree.number(Path::new("/backing/g"), 10), file);
        tree.remove(Path::new("/backing/f"));
        assert_eq!(tree.path(file), Some(PathBuf::from("/backing/g")));
    }

    #[test]
    fn what_is_renamed_over_another_keeps_its_number() {
        let mut tree = tree();
        let old = tree.number(Path::new("/backing/current"), 10);
        let new = tree.number(Path::new("/backing/new"), 11);
        tree.rename(Path::new("/backing/new"), Path::new("/backing/current"));
        assert_eq!(tree.path(new), Some(PathBuf::from("/backing/current")));
        assert_eq!(tree.path(old), None);
    }
}
