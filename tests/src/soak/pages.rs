//! The pages of the soak, and what makes their content right at any moment.
//!
//! Every page's bytes prove by themselves that no delta was seen in part: whole values are functions of two words at
//! their start, pairs are a word and its complement, sums stay zero.

use std::collections::HashMap;

use mmsb_shm::{NewPage, PageId, PageRef, Pages, Participant};

use super::WRITERS;
use crate::scenario::named;
use crate::seed::Rng;

/// How the content of a page is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A [`seal`]ed value over the whole page.
    Sealed,
    /// The same, and one of those that transactions write together.
    Together,
    /// Cells of 16 bytes: a word and its complement.
    Pairs,
    /// Words whose sum is 0.
    Sum,
    /// A pair, then a sealed value: written whole by loans, its pair by patches.
    Loan,
    /// Anything: only the log knows.
    Raw,
}

/// Name, size, version slots, rule.
pub type Spec = (String, usize, u32, Rule);

/// Cells of the page of pairs.
pub const PAIRS: usize = 64;
/// Words of the page whose sum is 0.
pub const WORDS: usize = 64;

/// Name of a writer's own page.
pub fn own_name(slot: usize) -> String {
    format!("own/{slot}")
}

/// All pages that stay.
pub fn specs() -> Vec<Spec> {
    let mut specs: Vec<Spec> = (0..WRITERS)
        .map(|slot| (own_name(slot), 64 + slot * 150, 1, Rule::Sealed))
        .collect();
    for (i, size) in [40, 200, 900, 1900].into_iter().enumerate() {
        specs.push((format!("sealed/{i}"), size, 1, Rule::Sealed));
    }
    for (i, (size, versions)) in [(100, 4), (700, 8)].into_iter().enumerate() {
        specs.push((format!("cell/{i}"), size, versions, Rule::Sealed));
    }
    for (i, (size, versions)) in [(24, 1), (100, 4), (40, 1), (300, 1)]
        .into_iter()
        .enumerate()
    {
        specs.push((format!("together/{i}"), size, versions, Rule::Together));
    }
    for i in 0..2 {
        specs.push((format!("raw/{i}"), 4000, 1, Rule::Raw));
        specs.push((format!("loan/{i}"), 20_000, 1, Rule::Loan));
    }
    specs.push(("pairs".into(), PAIRS * 16, 1, Rule::Pairs));
    specs.push(("sum".into(), WORDS * 8, 1, Rule::Sum));
    specs
}

/// Makes them, calling `drain` after each.
///
/// # Panics
/// When the bus refuses.
pub fn furnish(p: &Participant, mut drain: impl FnMut()) {
    for (name, size, versions, _) in specs() {
        let new = NewPage {
            versions,
            ..named(size as u64, &name)
        };
        p.create_page(&new).expect("a page");
        drain();
    }
}

/// A value of `len` bytes, 16 at least, that only these two words give.
pub fn seal(sequence: u64, writer: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    bytes[8..16].copy_from_slice(&writer.to_le_bytes());
    Rng::new(sequence.rotate_left(40) ^ writer).fill(&mut bytes[16..]);
    bytes
}

/// The words of a sealed value; `None`: it is torn. A page never written is (0, 0).
pub fn unseal(bytes: &[u8]) -> Option<(u64, u64)> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    let words = (word(0), word(8));
    if words == (0, 0) {
        return bytes.iter().all(|b| *b == 0).then_some(words);
    }
    (seal(words.0, words.1, bytes.len()) == bytes).then_some(words)
}

/// A word and its complement.
pub fn pair(word: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&word.to_le_bytes());
    bytes[8..].copy_from_slice(&(!word).to_le_bytes());
    bytes
}

fn is_pair(bytes: &[u8]) -> bool {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    word(0) == !word(8) || (word(0) == 0 && word(8) == 0)
}

impl Rule {
    /// Whether the bytes of a page are those of one moment.
    pub fn holds(self, bytes: &[u8]) -> bool {
        match self {
            Rule::Sealed | Rule::Together => unseal(bytes).is_some(),
            Rule::Pairs => bytes.chunks_exact(16).all(is_pair),
            Rule::Sum => {
                let words = bytes.chunks_exact(8);
                words.fold(0u64, |sum, w| {
                    sum.wrapping_add(u64::from_le_bytes(w.try_into().unwrap_or_default()))
                }) == 0
            }
            Rule::Loan => is_pair(&bytes[..16]) && unseal(&bytes[16..]).is_some(),
            Rule::Raw => true,
        }
    }
}

/// The lasting pages, looked up.
pub struct Table {
    /// In the order of [`specs`].
    pub pages: Vec<(PageRef, Rule, String)>,
    rules: HashMap<PageId, (Rule, usize)>,
}

impl Table {
    /// Looks them up.
    ///
    /// # Panics
    /// When one is missing.
    pub fn find(pages: &Pages) -> Table {
        let find = |name: &str| {
            let id = pages.find(name).expect("a lasting page");
            pages.resolve(id).expect("a lasting page")
        };
        let pages: Vec<_> = specs()
            .into_iter()
            .map(|(name, _, _, rule)| (find(&name), rule, name))
            .collect();
        let rules = pages
            .iter()
            .map(|(page, rule, _)| (page.id(), (*rule, page.size())))
            .collect();
        Table { pages, rules }
    }

    /// The pages whose name starts so.
    pub fn named<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a PageRef> {
        self.pages
            .iter()
            .filter(move |(_, _, name)| name.starts_with(prefix))
            .map(|(page, ..)| page)
    }

    /// The page of this name.
    ///
    /// # Panics
    /// When it is none of them.
    pub fn page(&self, name: &str) -> &PageRef {
        let found = self.pages.iter().find(|(_, _, n)| n == name);
        &found.expect("a lasting page").0
    }

    /// Rule and size of a page; `None` for those that come and go.
    pub fn rule(&self, id: PageId) -> Option<(Rule, usize)> {
        self.rules.get(&id).copied()
    }
}
