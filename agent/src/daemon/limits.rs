//! What a bus should not grow beyond, and whether it did.
//!
//! Going beyond a limit stops nobody: it is logged once, counted, and makes the agent unhealthy until the bus is five per
//! cent below it again, so that a bus at its limit does not fill the log.

use std::fmt;

use super::config::Limits;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// Memory of the page segment.
    Bytes,
    /// Pages.
    Pages,
    /// Living participants.
    Participants,
}

impl Limited {
    /// The name in metrics and in the file.
    pub fn name(self) -> &'static str {
        match self {
            Limited::Bytes => "bytes",
            Limited::Pages => "pages",
            Limited::Participants => "participants",
        }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a bus uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Memory of the page segment.
    pub bytes: u64,
    /// Pages.
    pub pages: u64,
    /// Living participants.
    pub participants: u64,
}

/// One limit and how the bus stands to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What is limited.
    pub what: Limited,
    /// To how much.
    pub limit: u64,
    /// How much there is.
    pub used: u64,
    /// Whether it went beyond and has not come back.
    pub is_exceeded: bool,
    /// Whether this look found the bus beyond it for the first time.
    pub is_news: bool,
}

impl Standing {
    /// The sentence for the log and for `/healthz`.
    pub fn sentence(&self) -> String {
        format!("{} {}, the limit is {}", self.used, self.what, self.limit)
    }
}

/// Compares what is used with the limits; `before` is the result of the look before.
pub fn check(limits: &Limits, used: Use, before: &[Standing]) -> Vec<Standing> {
    let pairs = [
        (Limited::Bytes, limits.bytes.map(|size| size.0), used.bytes),
        (Limited::Pages, limits.pages, used.pages),
        (
            Limited::Participants,
            limits.participants,
            used.participants,
        ),
    ];
    pairs
        .into_iter()
        .filter_map(|(what, limit, used)| limit.map(|limit| (what, limit, used)))
        .map(|(what, limit, used)| {
            let was_exceeded = before
                .iter()
                .any(|old| old.what == what && old.limit == limit && old.is_exceeded);
            let is_exceeded = used > limit || (was_exceeded && used > limit - limit / 20);
            Standing {
                what,
                limit,
                used,
                is_exceeded,
                is_news: is_exceeded && !was_exceeded,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_news_once_and_over_when_there_is_slack_again() {
        let limits = Limits {
            pages: Some(100),
            ..Limits::default()
        };
        let look = |pages, before: &[Standing]| {
            let used = Use {
                pages,
                ..Use::default()
            };
            check(&limits, used, before)
        };
        let at = look(100, &[]);
        assert_eq!((at.len(), at[0].is_exceeded), (1, false));
        let beyond = look(101, &at);
        assert!(beyond[0].is_exceeded && beyond[0].is_news);
        let near = look(99, &beyond);
        assert!(near[0].is_exceeded && !near[0].is_news);
        assert!(!look(95, &near)[0].is_exceeded);
    }
}
