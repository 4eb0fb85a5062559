//! Where the cases that have to do with the disk keep their files.

use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use crate::cli::exit::Failure;

/// `f_type` of file systems that are memory.
const MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// A directory, removed when dropped.
pub struct Directory(PathBuf);

impl Directory {
    /// A new directory in `given`, else in the current one, which then must be on a disk.
    ///
    /// # Errors
    ///
    /// That it is in memory; what the file system said.
    pub fn new(given: Option<&Path>) -> Result<Directory, Failure> {
        let parent = given.unwrap_or(Path::new("."));
        let about = |error: std::io::Error| {
            Failure::problem(format!("mmsb bench: {}: {error}", parent.display()))
        };
        let parent = parent.canonicalize().map_err(about)?;
        let kind = statfs(&parent).map_err(|error| about(error.into()))?.f_type;
        if given.is_none() && MEMORY.contains(&(kind as i64)) {
            return Err(Failure::usage(format!(
                "mmsb bench: {} is on a tmpfs, which is memory: run it in a directory on a disk, or say --disk DIR",
                parent.display()
            )));
        }
        let path = parent.join(format!("mmsb-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(about)?;
        Ok(Directory(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("mmsb: {} could not be removed: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_taken_and_left_as_it_was() {
        let given = tempfile::tempdir_in("/dev/shm").unwrap();
        let directory = Directory::new(Some(given.path())).unwrap();
        std::fs::write(directory.path().join("log"), b"x").unwrap();
        drop(directory);
        assert!(std::fs::read_dir(given.path()).unwrap().next().is_none());
        assert!(Directory::new(Some(&given.path().join("nowhere"))).is_err());
    }
}
