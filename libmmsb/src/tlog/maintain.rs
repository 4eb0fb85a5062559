//! What is done to files that no writer writes any more: [`repair`], [`retain`], [`compress_sealed`].
//!
//! Each step leaves a directory that reads as before or as after it; a crash between two steps is finished by calling
//! again. Bytes that a repair takes out of the log are kept aside, never thrown away.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mmsb_shm::testing::step;

use super::error::LogError;
use super::reader::{Block, LineFile, LogReader, OpenOptions, line};
use super::survey::{bytes_of, survey};
use super::writer::lock;

fn sync_dir(dir: &Path) -> Result<(), LogError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| LogError::io("sync", dir, e))
}

fn rename(from: &Path, to: &Path) -> Result<(), LogError> {
    std::fs::rename(from, to).map_err(|e| LogError::io("rename to", to, e))
}

/// `path` with something behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Where the log was cut; empty: it was whole.
    pub cuts: Vec<Cut>,
    /// Files with the bytes that were taken out.
    pub kept_aside: Vec<PathBuf>,
    /// LSN at which the log ends now.
    pub end_lsn: u64,
}

/// A place where a log was damaged, and now ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// First LSN that is lost.
    pub lsn: u64,
    /// LSN behind the last one that is lost, as far as the rest still tells.
    pub lost_end: u64,
    /// What was wrong.
    pub what: &'static str,
}

/// Cuts the log in `dir` where it is damaged, if it is. What stands behind is kept in files `<name>.damaged-<offset>`
/// and is no longer part of the log. A torn tail is no damage, and is left to the next writer.
///
/// # Errors
/// [`LogError::Locked`] while a writer lives; [`LogError::Foreign`] and [`LogError::Newer`] files are left alone.
pub fn repair(dir: &Path) -> Result<Repaired, LogError> {
    let _lock = lock(dir)?;
    let mut repaired = Repaired::default();
    loop {
        let mut reader = match LogReader::open(dir, OpenOptions::default()) {
            Ok(reader) => reader,
            Err(LogError::Damaged {
                file,
                lsn,
                offset,
                what,
            }) => {
                cut(dir, &mut repaired, None, file, lsn, offset, what)?;
                continue;
            }
            Err(e) => return Err(e),
        };
        let mut block = Block::default();
        let fault = loop {
            match reader.next_into(&mut block) {
                Ok(true) => {}
                Ok(false) => break None,
                Err(e) => break Some(e),
            }
        };
        match fault {
            None => {
                repaired.end_lsn = reader.lsn();
                return Ok(repaired);
            }
            Some(LogError::Damaged {
                file,
                lsn,
                offset,
                what,
            }) => cut(dir, &mut repaired, Some(reader), file, lsn, offset, what)?,
            Some(e) => return Err(e),
        }
    }
}

fn cut(
    dir: &Path,
    repaired: &mut Repaired,
    reader: Option<LogReader>,
    file: PathBuf,
    lsn: u64,
    offset: u64,
    what: &'static str,
) -> Result<(), LogError> {
    let (files, given_up) = line(dir)?;
    let Some(at) = files.iter().position(|f| f.path == file) else {
        return Err(LogError::Gone {
            wanted: lsn,
            oldest: files.first().map_or(0, |f| f.first_lsn),
        });
    };
    let mut lost_end = files.last().map_or(lsn, |f| f.first_lsn).max(lsn);
    // What the last file holds, if it can be read.
    if at + 1 < files.len() {
        lost_end = lost_end.max(survey(dir).map_or(0, |s| s.end.lsn));
    }
    // A file whose beginning is damaged goes as a whole; the file before it must not grow beyond where it ended, which
    // its blocks of a past that was given up would let it.
    let mut before = None;
    if let Some(mut reader) = reader {
        if let Some((path, end)) = reader.position()
            && path != file
        {
            before = Some((path.to_owned(), end));
        } else {
            lost_end = lost_end.max(reader.rest()?.end_lsn);
        }
    }
    // From the last to the first: a crash in between leaves the damage where it is, to be found again. First what was
    // given up, which must not come back when what superseded it goes.
    for other in given_up.iter().chain(files[at + 1..].iter().rev()) {
        let aside = beside(&other.path, ".damaged-0");
        rename(&other.path, &aside)?;
        repaired.kept_aside.push(aside);
    }
    sync_dir(dir)?;
    if let Some((path, end)) = before
        && let Some(entry) = files.iter().find(|f| f.path == path)
        && (entry.compressed || bytes_of(&path)? > end)
    {
        cut_file(dir, entry, end, repaired)?;
    }
    cut_file(dir, &files[at], offset, repaired)?;
    repaired.cuts.push(Cut {
        file,
        offset,
        lsn,
        lost_end,
        what,
    });
    Ok(())
}

/// Keeps what `entry` holds from `offset` on aside, and cuts it there.
fn cut_file(
    dir: &Path,
    entry: &LineFile,
    offset: u64,
    repaired: &mut Repaired,
) -> Result<(), LogError> {
    let path = &entry.path;
    let aside = beside(path, &format!(".damaged-{offset}"));
    if offset == 0 || entry.compressed {
        if offset > 0 {
            // The part that is whole goes on uncompressed, beside the compressed one, which it supersedes.
            let plain = path.with_extension("");
            let tmp = beside(&plain, ".tmp");
            let fail = |e| LogError::io("write", &tmp, e);
            let from = File::open(path).map_err(|e| LogError::io("open", path, e))?;
            let mut to = File::create(&tmp).map_err(fail)?;
            let decoder =
                zstd::Decoder::new(from).map_err(|e| LogError::io("decompress", path, e))?;
            let copied = io::copy(&mut decoder.take(offset), &mut to).map_err(fail)?;
            if copied != offset {
                return Err(fail(io::ErrorKind::UnexpectedEof.into()));
            }
            to.sync_all().map_err(fail)?;
            rename(&tmp, &plain)?;
            sync_dir(dir)?;
        }
        rename(path, &aside)?;
        sync_dir(dir)?;
        repaired.kept_aside.push(aside);
        return Ok(());
    }
    let fail = |e| LogError::io("cut", path, e);
    let mut from = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(fail)?;
    if from.metadata().map_err(fail)?.len() > offset {
        from.seek(SeekFrom::Start(offset)).map_err(fail)?;
        let keep = |e| LogError::io("write", &aside, e);
        let mut to = File::create(&aside).map_err(keep)?;
        io::copy(&mut from, &mut to).map_err(keep)?;
        to.sync_all().map_err(keep)?;
        sync_dir(dir)?;
        repaired.kept_aside.push(aside);
        from.set_len(offset).map_err(fail)?;
        from.sync_all().map_err(fail)?;
    }
    Ok(())
}

/// What to keep of a log. Only whole files go, oldest first, never the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// At most so many bytes of files.
    pub bytes: Option<u64>,
    /// Nothing that was last written to longer ago.
    pub age: Option<Duration>,
    /// Nothing from this LSN on goes, whatever the others say. Alone, it lets go of everything ahead of it.
    pub keep_from: Option<u64>,
}

/// A file that retention removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Where it was.
    pub path: PathBuf,
    /// LSN at which it began.
    pub first_lsn: u64,
    /// LSN at which it ended.
    pub end_lsn: u64,
    /// Bytes of it.
    pub bytes: u64,
}

/// Removes what need not be kept, beside a running writer too.
///
/// # Errors
/// A file cannot be looked at or removed; those ahead of it are gone.
pub fn retain(dir: &Path, retention: &Retention) -> Result<Vec<Removed>, LogError> {
    let (files, _) = line(dir)?;
    let mut sizes = Vec::new();
    for file in &files {
        sizes.push(bytes_of(&file.path)?);
    }
    let mut total: u64 = sizes.iter().sum();
    let mut removed = Vec::new();
    for (file, bytes) in files.iter().zip(sizes) {
        // The last file has no limit.
        let Some(end_lsn) = file.limit else { break };
        // Content of the record at `end_lsn` may stand at the end of this file.
        if retention.keep_from.is_some_and(|keep| end_lsn >= keep) {
            break;
        }
        let too_many = retention.bytes.is_some_and(|max| total > max);
        let too_old = match retention.age {
            Some(age) => {
                let fail = |e| LogError::io("read the time of", &file.path, e);
                let written = std::fs::metadata(&file.path)
                    .and_then(|m| m.modified())
                    .map_err(fail)?;
                SystemTime::now()
                    .duration_since(written)
                    .is_ok_and(|old| old > age)
            }
            None => false,
        };
        let any =
            retention.bytes.is_none() && retention.age.is_none() && retention.keep_from.is_some();
        if !(too_many || too_old || any) {
            break;
        }
        std::fs::remove_file(&file.path).map_err(|e| LogError::io("remove", &file.path, e))?;
        step("tlog.removed");
        // Its other form, if a compression was cut short; it would take its place.
        if !file.compressed {
            let _ = std::fs::remove_file(beside(&file.path, ".zst"));
        }
        total -= bytes;
        removed.push(Removed {
            path: file.path.clone(),
            first_lsn: file.first_lsn,
            end_lsn,
            bytes,
        });
    }
    if !removed.is_empty() {
        sync_dir(dir)?;
    }
    Ok(removed)
}

/// A file that was compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// Where it is now.
    pub path: PathBuf,
    /// Bytes of the log in it.
    pub bytes: u64,
    /// Bytes that it takes now.
    pub compressed_bytes: u64,
}

/// Compresses every file but the last, with zstd at `level` (1 to 22; 0: its default), beside a running writer too. A
/// file is checked, compressed aside, decompressed and compared, and only then takes the place of the original.
///
/// # Errors
/// [`LogError::Damaged`] files are left as they are.
pub fn compress_sealed(dir: &Path, level: i32) -> Result<Vec<Compressed>, LogError> {
    let (files, _) = line(dir)?;
    let mut compressed = Vec::new();
    for (at, file) in files.iter().enumerate() {
        if file.compressed || file.limit.is_none() {
            continue;
        }
        let (_, bytes) = LogReader::check_file(dir, &files, at)?;
        let done = beside(&file.path, ".zst");
        let tmp = beside(&done, ".tmp");
        let fail = |e| LogError::io("compress to", &tmp, e);
        let original = File::open(&file.path).map_err(|e| LogError::io("open", &file.path, e))?;
        let written = (|| {
            let mut encoder = zstd::Encoder::new(File::create(&tmp)?, level)?;
            encoder.include_checksum(true)?;
            io::copy(&mut (&original).take(bytes), &mut encoder)?;
            let to = encoder.finish()?;
            // Retention goes by age.
            to.set_modified(original.metadata()?.modified()?)?;
            to.sync_all()?;
            Ok(to.metadata()?.len())
        })()
        .map_err(fail)?;
        if !same(&file.path, &tmp, bytes).map_err(fail)? {
            let _ = std::fs::remove_file(&tmp);
            return Err(fail(io::Error::other(
                "what was compressed does not decompress to the same",
            )));
        }
        step("tlog.compressed");
        rename(&tmp, &done)?;
        sync_dir(dir)?;
        step("tlog.both_forms");
        std::fs::remove_file(&file.path).map_err(|e| LogError::io("remove", &file.path, e))?;
        sync_dir(dir)?;
        compressed.push(Compressed {
            path: done,
            bytes,
            compressed_bytes: written,
        });
    }
    Ok(compressed)
}

/// Whether the first `bytes` of a file are what the other one decompresses to.
fn same(plain: &Path, compressed: &Path, bytes: u64) -> io::Result<bool> {
    let mut plain = File::open(plain)?.take(bytes);
    let mut decoder = zstd::Decoder::new(File::open(compressed)?)?;
    let (mut a, mut b) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let n = plain.read(&mut a)?;
        if n == 0 {
            return Ok(decoder.read(&mut b)? == 0);
        }
        if decoder.read_exact(&mut b[..n]).is_err() || a[..n] != b[..n] {
            return Ok(false);
        }
    }
}
