//! The pictures of the report.

use super::standing::{Entry, Group};
use super::svg::{Anchor, Look, Scale, Svg, apart, text_width};
use super::units::{self, alone};
use crate::results::{Figure, Job, Kind, Results, Spread};

/// One picture, and where in the report it belongs.
pub struct Plot {
    /// Its name in the folder of the pictures.
    pub file: &'static str,
    /// Into whose section it goes.
    pub job: Job,
    /// What it shows, for who cannot see it.
    pub alt: String,
    /// The file, if there is anything to show.
    pub svg: Option<String>,
}

/// All pictures that a report can have.
pub fn all(results: &Results) -> Vec<Plot> {
    let groups = Group::all(results);
    let painter = Painter {
        results,
        groups: &groups,
    };
    let plot = |file, job, alt: &str, svg| Plot {
        file,
        job,
        alt: alt.to_owned(),
        svg,
    };
    let (threads, sizes) = ("synced commits by threads", "one way by size");
    vec![
        plot(
            "one_way_by_size.svg",
            Job::OneWay,
            sizes,
            painter.lines(&Lines {
                job: Job::OneWay,
                title: "One way by size",
                subtitle: "from before the payload is written until it is read; median and spread of rounds; less is better",
                across: "payload",
                across_at: |group| group.bytes as f64,
                across_name: |group| units::bytes(group.bytes),
                value: |_, entry| entry.spread(Figure::P50),
                shown: |ns| alone(Figure::P50, ns),
                tick: |ns| tick_name(Figure::P50, ns),
                limit: f64::INFINITY,
            }),
        ),
        plot(
            "one_way_floor.svg",
            Job::OneWay,
            "one way by size, in multiples of the floor",
            painter.lines(&Lines {
                job: Job::OneWay,
                title: "One way by size, in multiples of the floor",
                subtitle: "the same medians, divided by the best floor of each size; less is better",
                across: "payload",
                across_at: |group| group.bytes as f64,
                across_name: |group| units::bytes(group.bytes),
                value: |group, entry| {
                    let floor = group.best_by(Kind::Floor, Figure::P50)?;
                    let floor = floor.spread(Figure::P50)?.median;
                    let spread = entry.spread(Figure::P50)?;
                    (floor > 0.0).then(|| Spread {
                        median: spread.median / floor,
                        min: spread.min / floor,
                        max: spread.max / floor,
                    })
                },
                shown: |times| format!("{} × floor", units::ratio(times)),
                tick: |times| format!("{} ×", short(times)),
                limit: FAR_FROM_FLOOR,
            }),
        ),
        plot(
            "one_way_cdf.svg",
            Job::OneWay,
            "distribution of one way at 64 bytes",
            painter.distribution(Job::OneWay, "One way, 64 bytes: how often it took how long"),
        ),
        plot(
            "throughput.svg",
            Job::Throughput,
            "messages a second",
            painter.bars(Job::Throughput, "Throughput, 64 bytes", "messages a second, none lost; more is better"),
        ),
        plot(
            "contended.svg",
            Job::Contended,
            "reads and writes of the latest value under contention",
            painter.bars(
                Job::Contended,
                "Latest value under contention",
                "one writer and one reader, both flat out; more is better",
            ),
        ),
        plot(
            "wake_cdf.svg",
            Job::Wake,
            "distribution of waking a reader",
            painter.distribution(Job::Wake, "Waking a blocked reader: how often it took how long"),
        ),
        plot(
            "late_join.svg",
            Job::LateJoin,
            "time to join late",
            painter.bars(
                Job::LateJoin,
                "Joining late",
                "a fresh process, until it has read 1000 values; less is better",
            ),
        ),
        plot(
            "synced.svg",
            Job::Synced,
            threads,
            painter.lines(&Lines {
                job: Job::Synced,
                title: "Synced commits by threads",
                subtitle: "64 bytes each, on the disk when they return; median and spread of rounds; more is better",
                across: "threads",
                across_at: |group| group.threads.unwrap_or(1) as f64,
                across_name: |group| group.threads.unwrap_or(1).to_string(),
                value: |_, entry| entry.spread(Figure::PerSecond),
                shown: |rate| alone(Figure::PerSecond, rate),
                tick: |rate| tick_name(Figure::PerSecond, rate),
                limit: f64::INFINITY,
            }),
        ),
        plot(
            "recovery.svg",
            Job::Recovery,
            "time from the death of a writer to its successor's first value",
            painter.bars(
                Job::Recovery,
                "Recovery after kill -9 of the writer",
                "until a reader has its successor's first value; less is better",
            ),
        ),
    ]
}

struct Painter<'a> {
    results: &'a Results,
    groups: &'a [Group<'a>],
}

/// Something over sizes or threads, both logarithmic.
struct Lines {
    job: Job,
    title: &'static str,
    subtitle: &'static str,
    across: &'static str,
    across_at: fn(&Group) -> f64,
    across_name: fn(&Group) -> String,
    value: fn(&Group, &Entry) -> Option<Spread>,
    shown: fn(f64) -> String,
    tick: fn(f64) -> String,
    /// Who is always above is named and not drawn.
    limit: f64,
}

/// Who takes more than this many times as long as the best is named and not drawn where the others would be squeezed together.
const FAR: f64 = 30.0;
/// The same, in multiples of the floor.
const FAR_FROM_FLOOR: f64 = 8.0;

const TOP: f64 = 66.0;
const BOTTOM: f64 = 52.0;
const LEFT: f64 = 74.0;
/// Of the area with the data.
const ACROSS: f64 = 560.0;
/// From one label to the next.
const LABEL: f64 = 17.0;
/// Room for the sample before a label, and for the line that leads to it.
const SAMPLE: f64 = 76.0;

impl<'a> Painter<'a> {
    fn of(&self, job: Job) -> impl Iterator<Item = &'a Group<'a>> {
        self.groups.iter().filter(move |group| group.job == job)
    }

    fn look(&self, entry: &Entry) -> Look {
        Look::of(entry.contender, self.results)
    }

    fn lines(&self, lines: &Lines) -> Option<String> {
        struct Series<'a> {
            entry: Entry<'a>,
            points: Vec<(f64, Spread)>,
        }
        let mut series: Vec<Series> = Vec::new();
        let mut across: Vec<(f64, String)> = Vec::new();
        for group in self.of(lines.job) {
            let x = (lines.across_at)(group);
            if !group.entries.is_empty() && across.iter().all(|(other, _)| *other != x) {
                across.push((x, (lines.across_name)(group)));
            }
            for entry in &group.entries {
                // Nothing has no place on a logarithmic axis.
                let spread = (lines.value)(group, entry).filter(|spread| spread.min > 0.0);
                let Some(spread) = spread else {
                    continue;
                };
                let name = &entry.contender.name;
                let known = series
                    .iter_mut()
                    .find(|series| series.entry.contender.name == *name);
                match known {
                    Some(series) => series.points.push((x, spread)),
                    None => series.push(Series {
                        entry: *entry,
                        points: vec![(x, spread)],
                    }),
                }
            }
        }
        let (near, far): (Vec<Series>, Vec<Series>) = series.into_iter().partition(|series| {
            let medians = series.points.iter().map(|(_, spread)| spread.median);
            medians.fold(f64::INFINITY, f64::min) <= lines.limit
        });
        let mut series = near;
        if series.is_empty() {
            return None;
        }
        let far: Vec<&str> = far
            .iter()
            .map(|series| series.entry.contender.label.as_str())
            .collect();
        let (first, last) = (across.first()?.0, across.last()?.0);
        let labels = series
            .iter()
            .map(|series| series.entry.contender.label.as_str());
        let mut frame = Frame::new(labels.chain(far.iter().copied()), series.len() + far.len());
        let above = format!("not drawn, above {}:", (lines.tick)(lines.limit));
        let labels_end = frame.far(&above, &far);
        let values = series.iter().flat_map(|series| &series.points);
        let values = values.flat_map(|(_, spread)| [spread.min, spread.max]);
        let y = Scale::logarithmic(values, frame.bottom(), TOP);
        let x = Scale::logarithmic_exact(first, last, LEFT + 14.0, frame.right() - 14.0);
        frame.titles(lines.title, lines.subtitle);
        for (value, name) in &across {
            frame.tick_across(x.at(*value), name);
        }
        for tick in y.ticks() {
            frame.tick_up(y.at(tick), &(lines.tick)(tick));
        }
        frame.axes(&format!("{} (logarithmic)", lines.across), "logarithmic");
        // The prominent ones last, over the others.
        series.sort_by_key(|series| match series.entry.contender.kind {
            Kind::Floor => 0,
            Kind::Peer => 1,
            Kind::Mmsb => 2,
        });
        let mut ends = Vec::new();
        for series in &series {
            let look = self.look(&series.entry);
            let label = &series.entry.contender.label;
            let points: Vec<(f64, f64)> = series
                .points
                .iter()
                .map(|(at, spread)| (x.at(*at), y.at(spread.median)))
                .collect();
            frame.svg.curve(&look, &points, label);
            for ((at, spread), point) in series.points.iter().zip(&points) {
                let range = format!("{} range", look.class);
                let (low, high) = (y.at(spread.min), y.at(spread.max));
                frame.svg.line(&range, (point.0, low), (point.0, high));
                let name = across.iter().find(|(other, _)| other == at);
                let name = name.map_or("", |(_, name)| name);
                let value = (lines.shown)(spread.median);
                let title = format!("{label}, {name}: {value}");
                frame.svg.marker(&look, *point, &title);
            }
            if let Some(end) = points.last() {
                ends.push((*end, look, label.as_str(), series.entry.contender.kind));
            }
        }
        ends.sort_by(|a, b| a.0.1.total_cmp(&b.0.1));
        let wanted: Vec<f64> = ends.iter().map(|end| end.0.1).collect();
        let places = apart(&wanted, LABEL, TOP + 4.0, labels_end);
        for ((end, look, label, kind), place) in ends.iter().zip(places) {
            frame.label(look, label, *kind, place, Some(*end));
        }
        Some(frame.svg.finish(lines.title, lines.subtitle))
    }

    /// How many of all samples took no longer than the time below; at 64 bytes, or the least size there is.
    fn distribution(&self, job: Job, title: &str) -> Option<String> {
        let has_cdf = |group: &&Group| group.entries.iter().any(|entry| !entry.case.cdf.is_empty());
        let group = self
            .of(job)
            .filter(has_cdf)
            .min_by_key(|group| (group.bytes != 64, group.bytes))?;
        let mut entries: Vec<&Entry> = group
            .entries
            .iter()
            .filter(|entry| !entry.case.cdf.is_empty())
            .collect();
        let middle = |entry: &Entry| {
            let half = entry.case.cdf.iter().find(|(_, share)| *share >= 0.5);
            half.or(entry.case.cdf.last()).map_or(0.0, |(ns, _)| *ns)
        };
        entries.sort_by(|a, b| middle(a).total_cmp(&middle(b)));
        let least = middle(entries.first()?);
        let near = entries.partition_point(|entry| least == 0.0 || middle(entry) <= FAR * least);
        let far = entries.split_off(near);
        let far: Vec<&str> = far
            .iter()
            .map(|entry| entry.contender.label.as_str())
            .collect();
        let labels = entries.iter().map(|entry| entry.contender.label.as_str());
        let mut frame = Frame::new(labels.chain(far.iter().copied()), entries.len() + far.len());
        frame.far(&format!("not drawn, above {FAR:.0} × the first:"), &far);
        let subtitle =
            "share of all samples that took no longer, up to 99.9 %; further left is better";
        // One sample in a thousand may be anywhere, and would squeeze the others into a corner.
        let near = entries.iter().flat_map(|entry| &entry.case.cdf);
        let near = near
            .filter(|(ns, share)| *share <= 0.9991 && *ns > 0.0)
            .map(|(ns, _)| *ns);
        let middles = entries.iter().map(|entry| middle(entry));
        let x = Scale::logarithmic(near.chain(middles), LEFT, frame.right());
        let (bottom, height) = (frame.bottom(), frame.bottom() - TOP);
        let y = |share: f64| bottom - share.clamp(0.0, 1.0) * height;
        frame.titles(title, subtitle);
        for tick in x.ticks() {
            frame.tick_across(x.at(tick), &tick_name(Figure::P50, tick));
        }
        for percent in [0, 25, 50, 75, 100] {
            frame.tick_up(y(f64::from(percent) / 100.0), &format!("{percent} %"));
        }
        frame.axes("time (logarithmic)", "");
        for entry in entries.iter().rev() {
            let look = self.look(entry);
            let cdf = &entry.case.cdf;
            let inside = cdf.iter().take_while(|(_, share)| *share <= 0.9991);
            let mut points: Vec<(f64, f64)> =
                inside.map(|(ns, share)| (x.at(*ns), y(*share))).collect();
            if points.is_empty() {
                points.extend(cdf.first().map(|(ns, share)| (x.at(*ns), y(*share))));
            }
            // The quickest sample took no less: the curve rises from nothing there.
            if let Some((first, _)) = points.first().copied() {
                points.insert(0, (first, y(0.0)));
            }
            let middle = middle(entry);
            let title = format!("{}: {}", entry.contender.label, alone(Figure::P50, middle));
            frame.svg.curve(&look, &points, &title);
            frame.svg.marker(&look, (x.at(middle), y(0.5)), &title);
        }
        for (at, entry) in entries.iter().enumerate() {
            let place = TOP + 8.0 + at as f64 * LABEL;
            let look = self.look(entry);
            frame.label(
                &look,
                &entry.contender.label,
                entry.contender.kind,
                place,
                None,
            );
        }
        Some(frame.svg.finish(title, subtitle))
    }

    /// A row for each contender and a bar for each figure, in a part for each size.
    fn bars(&self, job: Job, title: &str, subtitle: &str) -> Option<String> {
        const ROW: f64 = 26.0;
        const THIN: f64 = 13.0;
        const PART: f64 = 30.0;
        let groups: Vec<&Group> = self
            .of(job)
            .filter(|group| !group.entries.is_empty())
            .collect();
        let entries = || groups.iter().flat_map(|group| &group.entries);
        let figures = job.figures();
        let spreads = || {
            entries().flat_map(|entry| figures.iter().filter_map(|figure| entry.spread(*figure)))
        };
        entries().next()?;
        let row = if figures.len() > 1 {
            THIN * 2.0 + 10.0
        } else {
            ROW
        };
        let labels = entries().map(|entry| text_width(&entry.contender.label, 12.5));
        let left = labels.fold(80.0, f64::max) + 24.0;
        let values = 120.0;
        let width = left + 500.0 + values;
        let parts = if groups.len() > 1 {
            groups.len() as f64 * PART
        } else {
            0.0
        };
        let legend = if figures.len() > 1 { 22.0 } else { 0.0 };
        let top = TOP + legend;
        let bottom = top + parts + entries().count() as f64 * row + 6.0;
        let mut svg = Svg::new(width, bottom + BOTTOM);
        let (least, most) = spreads().fold((f64::INFINITY, 0.0_f64), |(least, most), spread| {
            let least = if spread.median > 0.0 {
                least.min(spread.median)
            } else {
                least
            };
            (least, most.max(spread.max))
        });
        // Bars should begin at nothing, but a time that is fifty times as long leaves nothing to be seen of the better ones,
        // and writes nothing of reads. Of rates alone, the better ones are the long ones.
        let logarithmic = most > 50.0 * least && figures != [Figure::PerSecond];
        let scale = if logarithmic {
            // Half a decade below, so that the shortest bar is one.
            Scale::logarithmic([least / 3.0, most], left, left + 500.0)
        } else {
            Scale::linear(most, left, left + 500.0)
        };
        titles(&mut svg, 20.0, title, subtitle);
        if let [first, second] = figures {
            let mut x = left;
            for (figure, class) in [(first, "full"), (second, "half")] {
                let name = figure_name(*figure);
                svg.bar(&format!("mmsb {class}"), (x, TOP - 6.0), (22.0, 10.0), name);
                svg.text("soft", (x + 28.0, TOP + 3.0), Anchor::Start, name);
                x += 40.0 + text_width(name, 12.0) + 24.0;
            }
        }
        for tick in scale.ticks() {
            let x = scale.at(tick);
            svg.line("grid", (x, top - 4.0), (x, bottom));
            let name = if tick > 0.0 {
                tick_name(figures[0], tick)
            } else {
                "0".into()
            };
            svg.text("soft", (x, bottom + 18.0), Anchor::Middle, &name);
        }
        svg.line("axis", (left, top - 4.0), (left, bottom));
        if logarithmic {
            svg.text(
                "soft",
                (left + 250.0, bottom + 38.0),
                Anchor::Middle,
                "logarithmic",
            );
        }
        let mut y = top;
        for group in &groups {
            if groups.len() > 1 {
                svg.text(
                    "strong",
                    (20.0, y + 20.0),
                    Anchor::Start,
                    &units::bytes(group.bytes),
                );
                y += PART;
            }
            for entry in &group.entries {
                let look = self.look(entry);
                let contender = entry.contender;
                let class = match contender.kind {
                    Kind::Mmsb => "strong",
                    Kind::Peer => "",
                    Kind::Floor => "soft",
                };
                svg.text(
                    class,
                    (left - 10.0, y + row / 2.0 + 4.0),
                    Anchor::End,
                    &contender.label,
                );
                let thick = if figures.len() > 1 { THIN } else { row - 8.0 };
                for (at, figure) in figures.iter().enumerate() {
                    let above = y + 4.0 + at as f64 * THIN;
                    let fill = if at == 0 { "full" } else { "half" };
                    let never = entry.case.never().filter(|count| *count > 0);
                    let Some(spread) = entry.spread(*figure) else {
                        if let Some(count) = never {
                            let text = format!("never, after any of {count} kills");
                            svg.bar(
                                &format!("{} never", look.class),
                                (left, above),
                                (500.0, thick),
                                &text,
                            );
                            svg.text(
                                "strong",
                                (left + 12.0, above + thick / 2.0 + 4.0),
                                Anchor::Start,
                                &text,
                            );
                        }
                        continue;
                    };
                    let mut value = alone(*figure, spread.median);
                    let title = format!(
                        "{}: {value} ({} to {})",
                        contender.label,
                        alone(*figure, spread.min),
                        alone(*figure, spread.max)
                    );
                    let size = (scale.at(spread.median) - left, thick - 1.0);
                    svg.bar(
                        &format!("{} {fill}", look.class),
                        (left, above),
                        size,
                        &title,
                    );
                    let middle = above + (thick - 1.0) / 2.0;
                    let (low, high) = (scale.at(spread.min), scale.at(spread.max));
                    if high - low > 1.0 {
                        svg.line("whisker", (low, middle), (high, middle));
                    }
                    if let Some(count) = never {
                        value = format!("{value}, {count} × never");
                    }
                    svg.text("", (high + 8.0, middle + 4.0), Anchor::Start, &value);
                }
                y += row;
            }
        }
        Some(svg.finish(title, subtitle))
    }
}

/// Axes, and labels to the right of them.
struct Frame {
    svg: Svg,
    height: f64,
}

impl Frame {
    fn new<'a>(labels: impl Iterator<Item = &'a str>, count: usize) -> Frame {
        let label = labels
            .map(|label| text_width(label, 12.5))
            .fold(60.0, f64::max);
        let height = 380_f64.max((count as f64 + 3.0) * LABEL);
        Frame {
            svg: Svg::new(LEFT + ACROSS + SAMPLE + label + 16.0, TOP + height + BOTTOM),
            height,
        }
    }

    fn right(&self) -> f64 {
        LEFT + ACROSS
    }

    fn bottom(&self) -> f64 {
        TOP + self.height
    }

    fn titles(&mut self, title: &str, subtitle: &str) {
        titles(&mut self.svg, 20.0, title, subtitle);
    }

    fn tick_across(&mut self, x: f64, name: &str) {
        let bottom = self.bottom();
        self.svg.line("grid", (x, TOP), (x, bottom));
        self.svg
            .text("soft", (x, bottom + 18.0), Anchor::Middle, name);
    }

    fn tick_up(&mut self, y: f64, name: &str) {
        let right = self.right();
        self.svg.line("grid", (LEFT, y), (right, y));
        self.svg
            .text("soft", (LEFT - 8.0, y + 4.0), Anchor::End, name);
    }

    fn axes(&mut self, across: &str, up: &str) {
        let (right, bottom) = (self.right(), self.bottom());
        self.svg.line("axis", (LEFT, bottom), (right, bottom));
        self.svg.line("axis", (LEFT, TOP), (LEFT, bottom));
        let middle = f64::midpoint(LEFT, right);
        self.svg
            .text("soft", (middle, bottom + 40.0), Anchor::Middle, across);
        if !up.is_empty() {
            let middle = f64::midpoint(TOP, bottom);
            self.svg.text_upwards("soft", (18.0, middle), up);
        }
    }

    /// Names who is too far away to be drawn, below the labels; gives where these have to end.
    fn far(&mut self, above: &str, names: &[&str]) -> f64 {
        let (x, bottom) = (self.right() + 36.0, self.bottom());
        if names.is_empty() {
            return bottom;
        }
        let top = bottom - names.len() as f64 * LABEL;
        for (at, line) in [above].iter().chain(names).enumerate() {
            self.svg.text(
                "soft",
                (x, top + at as f64 * LABEL + 4.0),
                Anchor::Start,
                line,
            );
        }
        top - 1.5 * LABEL
    }

    /// A label beside the data, and a thin line to it from where the contender's line ends.
    fn label(&mut self, look: &Look, label: &str, kind: Kind, y: f64, end: Option<(f64, f64)>) {
        let right = self.right();
        // From a line that ends earlier, it would run across the others.
        if let Some(end) = end.filter(|end| end.0 > right - 30.0) {
            let leader = format!("{} leader", look.class);
            self.svg
                .line(&leader, (end.0 + 6.0, end.1), (right + 32.0, y));
        }
        self.svg.sample(look, (right + 36.0, y), label);
        let class = match kind {
            Kind::Mmsb => "strong",
            Kind::Peer => "",
            Kind::Floor => "soft",
        };
        self.svg
            .text(class, (right + 70.0, y + 4.0), Anchor::Start, label);
    }
}

fn titles(svg: &mut Svg, x: f64, title: &str, subtitle: &str) {
    svg.text("title", (x, 28.0), Anchor::Start, title);
    svg.text("soft", (x, 48.0), Anchor::Start, subtitle);
}

fn figure_name(figure: Figure) -> &'static str {
    match figure {
        Figure::ReadsPerSecond => "reads a second",
        Figure::WritesPerSecond => "writes a second",
        Figure::PerSecond => "a second",
        Figure::P50 | Figure::P99 | Figure::Max => "time",
    }
}

/// A round value with its unit: `100 ns`, `1 µs`.
fn tick_name(figure: Figure, value: f64) -> String {
    let unit = units::unit_for(figure, [value]);
    format!("{} {}", short(value / unit.scale), unit.name)
}

/// A round number. Powers are not exact; a tick is.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::made_up;

    fn svg(results: &Results, file: &str) -> Option<String> {
        let mut plots = all(results).into_iter();
        plots.find(|plot| plot.file == file).unwrap().svg
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(tick_name(Figure::P50, 100.00000000000001), "100 ns");
        assert_eq!(tick_name(Figure::P50, 1e3), "1 µs");
        assert_eq!(tick_name(Figure::PerSecond, 2e7), "20 M/s");
        assert_eq!(short(0.5), "0.5");
    }

    #[test]
    fn never_is_a_bar_that_says_so() {
        let svg = svg(&made_up::results(), "recovery.svg").unwrap();
        assert!(svg.contains("class=\"p0 never\""));
        assert!(svg.contains(">never, after any of 3 kills</text>"));
    }

    #[test]
    fn who_is_far_away_is_named() {
        let mut results = made_up::results();
        let case = results
            .cases
            .iter_mut()
            .find(|case| case.contender == "b/queue")
            .unwrap();
        case.cdf = vec![(1e6, 0.5), (2e6, 1.0)];
        let svg = svg(&results, "one_way_cdf.svg").unwrap();
        assert!(svg.contains("not drawn, above 30 × the first:"));
        assert!(svg.contains(">B, queue</text>") && !svg.contains("<title>B, queue"));
    }

    #[test]
    fn what_was_not_measured_has_no_picture() {
        let mut results = made_up::results();
        assert!(svg(&results, "wake_cdf.svg").is_none());
        results.cases.retain(|case| case.contender != "floor/line");
        assert!(svg(&results, "one_way_by_size.svg").is_some());
        assert!(
            svg(&results, "one_way_floor.svg").is_none(),
            "there are no multiples of no floor"
        );
        results.cases.clear();
        assert!(all(&results).iter().all(|plot| plot.svg.is_none()));
    }
}
