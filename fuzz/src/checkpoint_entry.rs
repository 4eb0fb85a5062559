//! What the fuzz target `checkpoint` and `libmmsb/tests/checkpoint_hostile.rs` run: a checkpoint file with whatever
//! bytes the caller says, then everybody who reads it.
//!
//! Each call must end with a value or a typed error. Whoever runs this watches for panics and endless loops.

use std::path::Path;
use std::sync::OnceLock;

use mmsb::checkpoint::{self, Options};
use mmsb::state::{Blocks, Heap, Meta, ReplayOptions, State, replay};
use mmsb::tlog::Block;
use mmsb_shm::wire::{self, Spec};
use mmsb_shm::{Kind, PageId};

const RING: u32 = 64;
/// More than any page of the model, and less than a forged size can ask for.
const MEMORY: u64 = 16 << 20;

fn id(index: u32) -> PageId {
    PageId {
        index,
        generation: 1,
    }
}

/// A log with a little of everything.
fn block() -> Block {
    let mut body = Vec::new();
    let mut lsn = u64::from(RING);
    let mut push = |spec: Spec| {
        let slots = wire::encode(&[spec], lsn, RING);
        lsn += (slots.len() / wire::SLOT) as u64;
        body.extend(slots);
    };
    let size =
        |size: u32, versions: u32| [size.to_le_bytes(), (versions << 8).to_le_bytes()].concat();
    push(Spec::new(
        id(0),
        Kind::Source,
        0,
        [&1u32.to_le_bytes()[..], &[0; 4], b"fuzz"].concat(),
    ));
    for (index, bytes) in [(0, 16), (1, 5000), (2, 1), (3, 8)] {
        push(Spec::new(id(index), Kind::Create, 0, size(bytes, 1)));
    }
    push(Spec::new(id(1), Kind::Patch, 4000, *b"some bytes"));
    push(Spec::new(id(3), Kind::Destroy, 0, []));
    push(Spec::new(id(0), Kind::Patch, 0, *b"more"));
    Block {
        first_lsn: u64::from(RING),
        end_lsn: lsn,
        ring_slots: RING,
        body,
        ..Block::default()
    }
}

/// A checkpoint file of that log.
pub fn model(dir: &Path) -> Vec<u8> {
    let meta = Meta {
        bus: "fuzz".into(),
        ..Meta::default()
    };
    let mut state = State::new(meta, Heap::default());
    let blocks: Blocks = [block()].into_iter().collect();
    replay(&mut state, blocks, ReplayOptions::default()).expect("the model is good");
    let info = checkpoint::write(dir, &state, &Options::default(), &|_| Ok(()));
    let path = info.expect("the model can be written").path;
    let bytes = std::fs::read(&path).expect("the model can be read");
    std::fs::remove_file(&path).expect("the model can be removed");
    bytes
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Makes all checksums right again, as far as the fields that lead to them make sense: without, nothing gets past them.
pub fn make_checksums_right(bytes: &mut [u8]) {
    let place = |at: Option<u64>, len: Option<u64>, all: usize| {
        let (at, len) = (usize::try_from(at?).ok()?, usize::try_from(len?).ok()?);
        let end = at.checked_add(len)?;
        (end <= all).then_some(at..end)
    };
    let all = bytes.len();
    let index = word(bytes, 96).and_then(|n| n.checked_mul(24)?.checked_next_multiple_of(4096));
    if let Some(index) = place(word(bytes, 88), index, all) {
        let entries = word(bytes, 96).map_or(0, |n| n.min(64) as usize);
        for entry in (index.start..index.end).step_by(24).take(entries) {
            let len = word(bytes, entry + 8).map(|w| u64::from(w as u32).next_multiple_of(4096));
            if let Some(chunk) = place(word(bytes, entry), len, all) {
                let crc = crc32c::crc32c(&bytes[chunk]);
                if let Some(field) = bytes.get_mut(entry + 12..entry + 16) {
                    field.copy_from_slice(&crc.to_le_bytes());
                }
            }
        }
        let crc = crc32c::crc32c(&bytes[index]);
        if let Some(field) = bytes.get_mut(104..108) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
    }
    if bytes.len() >= 4096 {
        let crc = crc32c::crc32c(&bytes[..4092]);
        bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    }
}

/// `data`: an even first byte, and the rest is the file; an odd one, and the rest are patches of a good file, six bytes
/// each: where (u16), and what (u32). With its second lowest bit the checksums are made right afterwards.
pub fn checkpoint(dir: &Path, data: &[u8]) {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let mut bytes = if mode & 1 == 0 {
        data.to_vec()
    } else {
        static MODEL: OnceLock<Vec<u8>> = OnceLock::new();
        let mut bytes = MODEL.get_or_init(|| model(dir)).clone();
        for patch in data.chunks_exact(6).take(16) {
            let at = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % bytes.len();
            let end = bytes.len().min(at + 4);
            bytes[at..end].copy_from_slice(&patch[2..2 + end - at]);
        }
        bytes
    };
    if mode & 2 != 0 {
        make_checksums_right(&mut bytes);
    }
    let path = dir.join(format!("{:020}-{:010}.ckpt", 1, 1));
    std::fs::write(&path, &bytes).expect("a file");
    let _ = checkpoint::list_all(dir).expect("the directory can be read");
    let _ = checkpoint::describe(&path);
    for threads in [1, 2] {
        if let Ok(mut state) = checkpoint::load_with(&path, Heap::with_limit(MEMORY), threads) {
            let _ = state.hash();
            let blocks: Blocks = [block()].into_iter().collect();
            let _ = replay(&mut state, blocks, ReplayOptions::default());
        }
    }
    let _ = checkpoint::prune(dir, 1);
}
