//! What a parent that never maps the bus knows, from the pipes.

use std::collections::BTreeMap;

/// One acknowledged commit.
#[derive(Clone, Debug)]
pub struct Ack {
    /// Page.
    pub key: String,
    /// Its number then.
    pub n: u64,
    /// Where in the order.
    pub lsn: u64,
    /// Whether it was acknowledged as durable.
    pub synced: bool,
}

/// The books of one bus.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// All commits of this incarnation that somebody was told of, durable or not.
    pub acks: Vec<Ack>,
    /// Commits that somebody was told of, over all incarnations.
    pub commits: u64,
    /// Synced acknowledgements, over all incarnations.
    pub synced: u64,
    /// Commits that were not durable in time, over all incarnations.
    pub not_durable: u64,
    /// Refusals for want of a supervisor.
    pub no_supervisor: u64,
    /// The last words of any refusal.
    pub last_why: String,
    /// Numbers at the beginning of this incarnation.
    base: BTreeMap<String, u64>,
}

impl Books {
    /// Takes a writer's line. `false`: it is not one of these.
    pub fn take(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok());
        match words.as_slice() {
            ["a" | "c", key, _, _, ..] => {
                let (Some(n), Some(lsn)) = (number(2), number(3)) else {
                    return false;
                };
                let synced = words[0] == "a" && words[4] == "s";
                self.commits += 1;
                self.synced += u64::from(synced);
                if words[0] == "c" {
                    self.not_durable += 1;
                    self.last_why = words[4..].join(" ");
                }
                self.acks.push(Ack {
                    key: (*key).to_owned(),
                    n,
                    lsn,
                    synced,
                });
                true
            }
            ["blocked", no_supervisor, rest @ ..] => {
                self.no_supervisor += u64::from(*no_supervisor == "true");
                self.last_why = rest.join(" ");
                true
            }
            _ => false,
        }
    }

    /// Compares what a checker found with what was acknowledged, the segments having lived on: nothing may be missing.
    ///
    /// # Errors
    /// What is missing.
    pub fn nothing_lost(&self, found: &BTreeMap<String, u64>) -> Result<(), String> {
        for ack in &self.acks {
            let n = found.get(&ack.key).copied().unwrap_or(0);
            if n < ack.n {
                return Err(format!("{ack:?} is lost: the page is at {n}"));
            }
        }
        for (key, n) in &self.base {
            // Those come and go.
            if !key.starts_with("temp/") && found.get(key).copied().unwrap_or(0) < *n {
                return Err(format!("{key} was at {n} when the bus was rebuilt"));
            }
        }
        Ok(())
    }

    /// The same after the segments were gone and the bus rebuilt: what is there is exactly what was committed ahead of
    /// `fork`, and all that was acknowledged as durable lies ahead of it.
    ///
    /// # Errors
    /// What is lost, or there and should not be.
    pub fn exactly_a_prefix(&self, found: &BTreeMap<String, u64>, fork: u64) -> Result<(), String> {
        for ack in &self.acks {
            let n = found.get(&ack.key).copied().unwrap_or(0);
            if ack.lsn < fork && n < ack.n {
                return Err(format!(
                    "{ack:?} lies ahead of LSN {fork}, where the log ended, and the page is at {n}"
                ));
            }
            if ack.lsn >= fork && n >= ack.n {
                return Err(format!(
                    "{ack:?} lies behind LSN {fork}, where the log ended, and the page is at {n}"
                ));
            }
            if ack.synced && ack.lsn >= fork {
                return Err(format!(
                    "{ack:?} was acknowledged as durable, and the log ended at {fork}"
                ));
            }
        }
        Ok(())
    }

    /// A new incarnation begins with these numbers.
    pub fn rebuilt(&mut self, found: &BTreeMap<String, u64>) {
        self.acks.clear();
        self.base = found.clone();
    }
}
