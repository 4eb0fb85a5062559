//! Who is ahead, by how much, and when nobody can say.

use std::cmp::Ordering;

use crate::results::{Case, Figure, Job, Kind, Results, Spread, Who};

/// A contender and what it did.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Who.
    pub contender: &'a Who,
    /// What.
    pub case: &'a Case,
}

/// One job in one size, with all who tried.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// What was done.
    pub job: Job,
    /// With how much.
    pub bytes: usize,
    /// By how many, where that varies.
    pub threads: Option<usize>,
    /// Who have figures: floors, then the best first.
    pub entries: Vec<Entry<'a>>,
    /// Who have none.
    pub without: Vec<Entry<'a>>,
}

/// The order of the report: first what MMSB exists for, from messages to the disk, and last what it does not.
pub const REPORTED: [Job; 9] = [
    Job::OneWay,
    Job::Throughput,
    Job::Contended,
    Job::ReadAlone,
    Job::Wake,
    Job::LateJoin,
    Job::Synced,
    Job::Recovery,
    Job::UpdateAlone,
];

/// How MMSB stands beside a peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Better by this factor; without one if only MMSB always comes to an end.
    Ahead(Option<f64>),
    /// Worse by this factor; without one if only the peer always comes to an end.
    Behind(Option<f64>),
    /// Each median lies within the other's spread. The factor is above one if MMSB's is the better.
    Even(f64),
}

impl Entry<'_> {
    /// A figure over the rounds.
    pub fn spread(&self, figure: Figure) -> Option<Spread> {
        self.case.spread(figure)
    }

    /// Whether it sometimes did not come to an end.
    pub fn fails(&self) -> bool {
        self.case.never().is_some_and(|count| count > 0)
    }

    fn has_figures(&self) -> bool {
        let figures = self.case.job.figures();
        self.fails() || figures.iter().all(|figure| self.spread(*figure).is_some())
    }

    /// Less is better, whatever the figures are.
    fn cost(&self, figures: &[Figure]) -> f64 {
        figures
            .iter()
            .map(|figure| match self.spread(*figure) {
                Some(spread) if figure.more_is_better() => 1.0 / spread.median,
                Some(spread) => spread.median,
                None => f64::INFINITY,
            })
            // A product, so that a writer that starves its reader is not the best of all at both.
            .product()
    }

    fn order(&self, other: &Self, figures: &[Figure]) -> Ordering {
        let by_end = self.fails().cmp(&other.fails());
        let by_cost = || self.cost(figures).total_cmp(&other.cost(figures));
        // Equal ones by name: the same results give the same report, in whatever order they were measured.
        by_end
            .then_with(by_cost)
            .then_with(|| self.contender.name.cmp(&other.contender.name))
    }
}

impl<'a> Group<'a> {
    /// All groups of a run, in the order of the report.
    pub fn all(results: &'a Results) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for case in &results.cases {
            let Some(contender) = results.contender(&case.contender) else {
                continue;
            };
            let key = (case.job, case.bytes, case.threads);
            let known = groups.iter().position(|group| group.key() == key);
            let at = known.unwrap_or_else(|| {
                groups.push(Group {
                    job: case.job,
                    bytes: case.bytes,
                    threads: case.threads,
                    entries: Vec::new(),
                    without: Vec::new(),
                });
                groups.len() - 1
            });
            let entry = Entry { contender, case };
            if entry.has_figures() {
                groups[at].entries.push(entry);
            } else {
                groups[at].without.push(entry);
            }
        }
        let place = |job: Job| REPORTED.iter().position(|other| *other == job);
        groups.sort_by_key(|group| (place(group.job), group.bytes, group.threads));
        for group in &mut groups {
            let figures = group.job.figures();
            group.entries.sort_by(|a, b| {
                let floor = |entry: &Entry| entry.contender.kind != Kind::Floor;
                floor(a).cmp(&floor(b)).then_with(|| a.order(b, figures))
            });
            group
                .without
                .sort_by(|a, b| a.contender.name.cmp(&b.contender.name));
        }
        groups
    }

    fn key(&self) -> (Job, usize, Option<usize>) {
        (self.job, self.bytes, self.threads)
    }

    /// All of a kind, in the order of the report.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry<'a>> {
        self.entries
            .iter()
            .filter(move |entry| entry.contender.kind == kind)
    }

    /// MMSB's best: one contender for all of the job's figures.
    pub fn mmsb(&self) -> Option<&Entry<'a>> {
        self.best(Kind::Mmsb, self.job.figures())
    }

    /// The best of the peers, or of the floors, by one figure.
    pub fn best_by(&self, kind: Kind, figure: Figure) -> Option<&Entry<'a>> {
        self.best(kind, &[figure])
    }

    fn best(&self, kind: Kind, figures: &[Figure]) -> Option<&Entry<'a>> {
        self.of(kind).min_by(|a, b| a.order(b, figures))
    }

    /// How MMSB's best stands beside a peer.
    pub fn verdict(&self, peer: &Entry, figure: Figure) -> Option<Verdict> {
        let mmsb = self.mmsb()?;
        match (mmsb.fails(), peer.fails()) {
            (false, true) => return Some(Verdict::Ahead(None)),
            (true, false) => return Some(Verdict::Behind(None)),
            _ => {}
        }
        let (ours, theirs) = match (mmsb.spread(figure), peer.spread(figure)) {
            (Some(ours), Some(theirs)) => (ours, theirs),
            // One of two that fail has at least come to an end sometimes.
            (Some(_), None) => return Some(Verdict::Ahead(None)),
            (None, Some(_)) => return Some(Verdict::Behind(None)),
            (None, None) => return None,
        };
        let factor = if figure.more_is_better() {
            over(ours.median, theirs.median)
        } else {
            over(theirs.median, ours.median)
        };
        Some(if ours.holds(theirs.median) && theirs.holds(ours.median) {
            Verdict::Even(factor)
        } else if factor >= 1.0 {
            Verdict::Ahead(Some(factor))
        } else {
            Verdict::Behind(Some(over(1.0, factor)))
        })
    }

    /// A median in multiples of that of the best floor.
    pub fn times_floor(&self, entry: &Entry, figure: Figure) -> Option<f64> {
        let floor = self.best_by(Kind::Floor, figure)?;
        Some(over(
            entry.spread(figure)?.median,
            floor.spread(figure)?.median,
        ))
    }

    /// A median in multiples of that of MMSB's best.
    pub fn times_mmsb(&self, entry: &Entry, figure: Figure) -> Option<f64> {
        let mmsb = self.mmsb()?;
        Some(over(
            entry.spread(figure)?.median,
            mmsb.spread(figure)?.median,
        ))
    }
}

/// A quotient; of two nothings, one.
fn over(above: f64, below: f64) -> f64 {
    if above == below { 1.0 } else { above / below }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::made_up;

    fn group<'a>(results: &'a Results, job: Job) -> Group<'a> {
        let groups = Group::all(results);
        groups.into_iter().find(|group| group.job == job).unwrap()
    }

    #[test]
    fn floors_come_first_and_then_the_best() {
        let results = made_up::results();
        let group = group(&results, Job::OneWay);
        let names: Vec<&str> = group
            .entries
            .iter()
            .map(|e| e.contender.name.as_str())
            .collect();
        assert_eq!(
            names,
            ["floor/line", "a/offer", "mmsb/cell", "mmsb/ring", "b/queue"]
        );
        assert_eq!(group.without[0].contender.name, "c/store");
        assert_eq!(group.mmsb().unwrap().contender.name, "mmsb/cell");
    }

    #[test]
    fn a_better_median_outside_the_spread_is_ahead() {
        let results = made_up::results();
        let group = group(&results, Job::OneWay);
        let offer = group.best_by(Kind::Peer, Figure::P50).unwrap();
        assert_eq!(
            group.verdict(offer, Figure::P50),
            Some(Verdict::Behind(Some(1.25)))
        );
        let queue = group.of(Kind::Peer).last().unwrap();
        assert_eq!(
            group.verdict(queue, Figure::P50),
            Some(Verdict::Ahead(Some(2.5)))
        );
        assert_eq!(group.times_floor(offer, Figure::P50), Some(80.0 / 70.0));
        assert_eq!(group.times_mmsb(offer, Figure::P50), Some(0.8));
    }

    #[test]
    fn medians_within_each_others_spread_are_even() {
        let mut results = made_up::results();
        made_up::set(&mut results, Job::OneWay, "a/offer", &[90.0, 95.0, 103.0]);
        made_up::set(
            &mut results,
            Job::OneWay,
            "mmsb/cell",
            &[94.0, 100.0, 101.0],
        );
        let group = group(&results, Job::OneWay);
        let offer = group.best_by(Kind::Peer, Figure::P50).unwrap();
        assert_eq!(group.verdict(offer, Figure::P50), Some(Verdict::Even(0.95)));
    }

    #[test]
    fn one_contender_stands_for_reads_and_writes() {
        let results = made_up::results();
        let group = group(&results, Job::Contended);
        // The cell reads less and writes more than the page; together it does better.
        assert_eq!(group.mmsb().unwrap().contender.name, "mmsb/cell");
        let board = group.best_by(Kind::Peer, Figure::ReadsPerSecond).unwrap();
        let verdict = group.verdict(board, Figure::ReadsPerSecond);
        assert_eq!(verdict, Some(Verdict::Ahead(Some(2.0))));
        let verdict = group.verdict(board, Figure::WritesPerSecond);
        assert_eq!(verdict, Some(Verdict::Behind(Some(2.0))));
    }

    #[test]
    fn who_never_recovers_is_behind_who_always_does() {
        let results = made_up::results();
        let group = group(&results, Job::Recovery);
        let peers: Vec<&Entry> = group.of(Kind::Peer).collect();
        assert_eq!(peers[0].contender.name, "b/queue", "it recovers, slowly");
        assert_eq!(peers[1].contender.name, "a/offer", "it does so never");
        assert_eq!(
            group.verdict(peers[1], Figure::P50),
            Some(Verdict::Ahead(None))
        );
        assert_eq!(group.times_mmsb(peers[1], Figure::P50), None);
    }

    #[test]
    fn who_never_recovers_is_behind_who_sometimes_does() {
        let mut results = made_up::results();
        results.cases.retain(|case| case.job == Job::Recovery);
        for case in &mut results.cases {
            case.rounds[0].never = Some(1);
            if case.contender == "mmsb/cell" {
                case.rounds[0].p50_ns = None;
            }
        }
        let group = group(&results, Job::Recovery);
        let verdicts: Vec<Option<Verdict>> = group
            .of(Kind::Peer)
            .map(|peer| group.verdict(peer, Figure::P50))
            .collect();
        assert_eq!(verdicts, [Some(Verdict::Behind(None)), None]);
    }

    #[test]
    fn nothing_divided_by_nothing_is_even() {
        assert_eq!(over(0.0, 0.0), 1.0);
        assert_eq!(over(1.0, 0.0), f64::INFINITY);
    }
}
