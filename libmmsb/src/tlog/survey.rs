//! [`survey`]: what is in the directory of a log, from the headers of its files; only the last file is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::LogError;
use super::format::FileHeader;
use super::places::Places;
use super::reader::{
    Begin, Block, LISTINGS, LineFile, LogEnd, LogReader, OpenOptions, Source, line, read_header,
    vanished, zst,
};
use super::writer::{LogMeta, PREPARED};

/// A file of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Where it is.
    pub path: PathBuf,
    /// LSN at which it begins.
    pub first_lsn: u64,
    /// LSN at which it ends (so far).
    pub end_lsn: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Incarnation of the bus that wrote it.
    pub incarnation: u64,
    /// Whether it is compressed.
    pub compressed: bool,
}

/// What is in the directory of a log.
#[derive(Debug)]
pub struct Survey {
    /// What the log is of, from its newest file; `None`: there is none.
    pub meta: Option<LogMeta>,
    /// Its files, oldest first.
    pub files: Vec<LogFile>,
    /// Their nonces, in the same order.
    pub(crate) file_ids: Vec<u64>,
    /// Files that are no longer part of it: a later incarnation began ahead of them.
    pub given_up: Vec<PathBuf>,
    /// Files of preparations and compressions that a crash ended; harmless.
    pub leftovers: Vec<PathBuf>,
    /// Bytes that a repair kept aside.
    pub kept_aside: Vec<PathBuf>,
    /// LSN of the oldest record.
    pub first_lsn: u64,
    /// How the log ends.
    pub end: LogEnd,
    /// What is wrong with the last file; `end` is then where that begins.
    pub fault: Option<LogError>,
}

impl Survey {
    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

pub(crate) fn header_of(file: &LineFile) -> Result<FileHeader, LogError> {
    let mut source = Source::open(&file.path, file.compressed)?;
    Ok(read_header(&mut source, file.first_lsn, file.incarnation)?.0)
}

pub(crate) fn bytes_of(path: &Path) -> Result<u64, LogError> {
    let fail = |e| LogError::io("read the length of", path, e);
    let found = std::fs::metadata(path);
    if found.is_err()
        && let Ok(other) = std::fs::metadata(zst(path))
    {
        // Compressed since it was listed.
        return Ok(other.len());
    }
    Ok(found.map_err(fail)?.len())
}

/// Bytes of the log's files in `dir`, and the LSN of its oldest record: from names and lengths alone.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn extent(dir: &Path) -> Result<(u64, Option<u64>), LogError> {
    let (entries, _) = line(dir)?;
    let mut bytes = 0;
    for entry in &entries {
        // Gone meanwhile: compressed, or no longer kept.
        bytes += bytes_of(&entry.path).unwrap_or(0);
    }
    Ok((bytes, entries.first().map(|f| f.first_lsn)))
}

/// Surveys the log in `dir`, beside a running writer too.
///
/// # Errors
/// Files that are foreign, newer, of different logs, or whose header is damaged; failed reads. Damage in the body of
/// the last file is told in [`Survey::fault`]; that of other files is not looked for.
pub fn survey(dir: &Path) -> Result<Survey, LogError> {
    survey_from(dir, None)
}

/// The same, with places of blocks: the last file is read from where the last survey with these came to, and torn writes
/// and damage behind its last whole block are not told apart.
pub(crate) fn survey_from(dir: &Path, places: Option<&Arc<Places>>) -> Result<Survey, LogError> {
    let mut left = LISTINGS;
    loop {
        match survey_once(dir, places) {
            Err(e) if vanished(&e, dir, &mut left) => {}
            result => return result,
        }
    }
}

fn survey_once(dir: &Path, places: Option<&Arc<Places>>) -> Result<Survey, LogError> {
    let (entries, given_up) = line(dir)?;
    let mut file_ids = Vec::new();
    let mut files = Vec::new();
    let mut meta: Option<LogMeta> = None;
    for entry in &entries {
        let header = header_of(entry)?;
        if let Some(known) = &meta
            && known.log_id != header.log_id
        {
            return Err(LogError::Foreign {
                file: entry.path.clone(),
                what: format!(
                    "it belongs to bus {:?}, log {:016x?}",
                    header.bus, header.log_id
                ),
            });
        }
        file_ids.push(header.file_id);
        files.push(LogFile {
            path: entry.path.clone(),
            first_lsn: entry.first_lsn,
            end_lsn: entry.limit.unwrap_or(entry.first_lsn),
            bytes: bytes_of(&entry.path)?,
            incarnation: entry.incarnation,
            compressed: entry.compressed,
        });
        meta = Some(LogMeta {
            config: header.config,
            log_id: header.log_id,
            incarnation: header.incarnation,
            fork_lsn: header.fork_lsn,
            forks: header.forks,
            created_ns: header.created_ns,
            ring_slots: header.ring_slots,
            bus: header.bus,
        });
    }
    let from_lsn = entries.last().map_or(0, |f| f.first_lsn);
    let mut end = LogEnd {
        lsn: from_lsn,
        sealed: false,
        torn: None,
    };
    let mut fault = None;
    if !entries.is_empty() {
        let options = OpenOptions {
            from_lsn,
            ..OpenOptions::default()
        };
        let mut reader = match places {
            None => LogReader::open(dir, options)?,
            Some(places) => {
                places.keep(&file_ids);
                let places = Some(Arc::clone(places));
                let mut reader = LogReader::open_from(dir, options, Begin::File, places)?;
                reader.only_the_end();
                reader.go_to_last()?;
                reader
            }
        };
        let mut block = Block::default();
        loop {
            match reader.next_into(&mut block) {
                // A writer may fill files quicker than this reads them: those that came since are for the next survey.
                Ok(true) if reader.header().is_some_and(|h| h.first_lsn > from_lsn) => {
                    end.lsn = block.first_lsn;
                    break;
                }
                Ok(true) => {}
                Ok(false) => {
                    end = reader.end().unwrap_or(end);
                    if let (Some(places), Some((file_id, place))) = (places, reader.given()) {
                        places.set_last(file_id, place);
                    }
                    break;
                }
                Err(e) => {
                    end.lsn = reader.lsn();
                    fault = Some(e);
                    break;
                }
            }
        }
    }
    if let Some(last) = files.last_mut() {
        last.end_lsn = end.lsn.max(last.first_lsn);
    }
    let (mut leftovers, mut kept_aside) = (Vec::new(), Vec::new());
    let fail = |e| LogError::io("list", dir, e);
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREPARED) || name.ends_with(".tmp") {
            leftovers.push(entry.path());
        } else if name.contains(".damaged-") {
            kept_aside.push(entry.path());
        }
    }
    leftovers.sort();
    kept_aside.sort();
    Ok(Survey {
        meta,
        first_lsn: files.first().map_or(0, |f| f.first_lsn),
        file_ids,
        files,
        given_up: given_up.into_iter().map(|f| f.path).collect(),
        leftovers,
        kept_aside,
        end,
        fault,
    })
}
