//! Small, clean SVG: text stays text, colours follow the reader's light or dark mode, and the same input gives the same bytes.
//!
//! Written by hand: the plotting crates bake one set of colours into every element, draw a dashed line as hundreds of lines, and
//! lay their legends over the data.

use std::fmt::Write as _;

use crate::results::{Kind, Results, Who};

/// Colours of peers, for a white and for a dark ground. Tellable apart by those who do not see red and green, too; every
/// system has its own marker beside.
const PEERS: [(&str, &str); 7] = [
    ("#d55e00", "#ff8f45"),
    ("#00835f", "#35c79a"),
    ("#a8447f", "#e79ac8"),
    ("#8f6b00", "#e8bf45"),
    ("#6a3d9a", "#b89cec"),
    ("#7a4a2b", "#c9a27c"),
    ("#4f6b12", "#aac45c"),
];
const DASHES: [&str; 4] = ["", "9 3", "2 3", "9 3 2 3"];

/// An estimate of how wide text is, in pixels: nothing here knows the reader's fonts. Rather too wide.
pub fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.57
}

/// How a contender looks, in every plot the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// The class that gives the colour.
    pub class: String,
    /// Of lines.
    pub width: f64,
    dash: &'static str,
    marker: Option<Marker>,
    hollow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    Circle,
    Square,
    Up,
    Diamond,
    Down,
    Wide,
    Tall,
}

/// Peers' markers; the circle is MMSB's.
const MARKERS: [Marker; 7] = [
    Marker::Square,
    Marker::Up,
    Marker::Diamond,
    Marker::Down,
    Marker::Wide,
    Marker::Tall,
    Marker::Circle,
];

impl Look {
    /// A system has one colour and one marker, its contenders differ by their dashes. Floors are grey, dashed and thin.
    pub fn of(contender: &Who, results: &Results) -> Look {
        let of_kind = || {
            results
                .contenders
                .iter()
                .filter(|other| other.kind == contender.kind)
        };
        let nth = of_kind()
            .filter(|other| contender.kind != Kind::Peer || other.system == contender.system)
            .position(|other| other.name == contender.name)
            .unwrap_or(0);
        match contender.kind {
            Kind::Mmsb => Look {
                class: "mmsb".into(),
                width: 2.8,
                dash: DASHES[nth % DASHES.len()],
                marker: Some(Marker::Circle),
                hollow: nth % 2 == 1,
            },
            Kind::Floor => Look {
                class: "floor".into(),
                width: 1.5,
                dash: ["6 4", "2 4", "10 4 2 4", "4 2"][nth % 4],
                marker: None,
                hollow: false,
            },
            Kind::Peer => {
                let mut systems: Vec<&str> = Vec::new();
                for other in of_kind() {
                    if !systems.contains(&other.system.as_str()) {
                        systems.push(&other.system);
                    }
                }
                let system = systems
                    .iter()
                    .position(|system| *system == contender.system);
                let system = system.unwrap_or(0) % PEERS.len();
                Look {
                    class: format!("p{system}"),
                    width: 1.7,
                    dash: DASHES[nth % DASHES.len()],
                    marker: Some(MARKERS[system]),
                    hollow: nth % 2 == 1,
                }
            }
        }
    }
}

/// Where text is fixed to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// It has its middle there.
    Middle,
    /// It ends there.
    End,
}

/// A picture while it is drawn.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// Of this size in pixels, empty.
    pub fn new(width: f64, height: f64) -> Svg {
        Svg {
            width,
            height,
            body: String::new(),
        }
    }

    /// The file. Reading programs say the title; browsers show it above the picture's marks.
    pub fn finish(self, title: &str, description: &str) -> String {
        let (width, height) = (px(self.width), px(self.height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"t d\">\n\
             <title id=\"t\">{}</title>\n<desc id=\"d\">{}</desc>\n<style>\n{}</style>\n\
             <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n{}</svg>\n",
            escaped(title),
            escaped(description),
            style(),
            self.body
        )
    }

    /// One line of text.
    pub fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let (x, y) = (px(x), px(y));
        _ = writeln!(
            self.body,
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\"{anchor}>{}</text>",
            escaped(text)
        );
    }

    /// One line of text that reads upwards.
    pub fn text_upwards(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let (x, y) = (px(x), px(y));
        _ = writeln!(
            self.body,
            "<text class=\"{class}\" text-anchor=\"middle\" transform=\"translate({x} {y}) rotate(-90)\">{}</text>",
            escaped(text)
        );
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let (x1, y1, x2, y2) = (px(x1), px(y1), px(x2), px(y2));
        _ = writeln!(
            self.body,
            "<path class=\"{class}\" d=\"M{x1} {y1}L{x2} {y2}\"/>"
        );
    }

    /// A contender's line through points.
    pub fn curve(&mut self, look: &Look, points: &[(f64, f64)], title: &str) {
        let mut path = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            _ = write!(
                path,
                "{}{} {}",
                if at == 0 { "M" } else { "L" },
                px(*x),
                px(*y)
            );
        }
        let dash = match look.dash {
            "" => String::new(),
            dash => format!(" stroke-dasharray=\"{dash}\""),
        };
        _ = writeln!(
            self.body,
            "<path class=\"{} curve\" stroke-width=\"{}\"{dash} d=\"{path}\"><title>{}</title></path>",
            look.class,
            px(look.width),
            escaped(title)
        );
    }

    /// A contender's marker.
    pub fn marker(&mut self, look: &Look, (x, y): (f64, f64), title: &str) {
        let Some(marker) = look.marker else {
            return;
        };
        let path = match marker {
            Marker::Circle => "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
            Marker::Square => "M-3.6 -3.6H3.6V3.6H-3.6Z",
            Marker::Up => "M0 -4.6L4.4 3.4H-4.4Z",
            Marker::Diamond => "M0 -5L5 0L0 5L-5 0Z",
            Marker::Down => "M0 4.6L4.4 -3.4H-4.4Z",
            Marker::Wide => "M-5 -2.2H5V2.2H-5Z",
            Marker::Tall => "M-2.2 -5H2.2V5H-2.2Z",
        };
        let fill = if look.hollow { "hollow" } else { "filled" };
        _ = writeln!(
            self.body,
            "<path class=\"{} {fill}\" transform=\"translate({} {})\" d=\"{path}\"><title>{}</title></path>",
            look.class,
            px(x),
            px(y),
            escaped(title)
        );
    }

    /// A sample of a contender's line, from `x` to `x + 26`.
    pub fn sample(&mut self, look: &Look, (x, y): (f64, f64), title: &str) {
        self.curve(look, &[(x, y), (x + 26.0, y)], title);
        self.marker(look, (x + 13.0, y), title);
    }

    /// A filled box; `class` may have several.
    pub fn bar(
        &mut self,
        class: &str,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        title: &str,
    ) {
        _ = writeln!(
            self.body,
            "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
            px(x),
            px(y),
            px(width.max(0.0)),
            px(height),
            escaped(title)
        );
    }
}

/// Classes, in light mode and in dark. Own ground in both, so that text can be read whatever page the picture is in.
fn style() -> String {
    let mut text = String::from(
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;font-size:12px;fill:#1f2328}\n\
         .title{font-size:17px;font-weight:600}.strong{font-weight:600}.soft{fill:#59636e}\n\
         .ground{fill:#ffffff}.grid,.axis,.whisker,.leader{fill:none;stroke:#e4e7eb}.axis{stroke:#8b949e}.whisker{stroke:#1f2328;stroke-width:1.2}\n\
         .curve{fill:none;stroke:currentColor;stroke-linejoin:round}.filled,.full{fill:currentColor}.half{fill:currentColor;fill-opacity:.4}\n\
         .filled,.hollow{stroke:currentColor;stroke-width:1.5}.hollow,.never{fill:#ffffff}\n\
         .never{stroke:currentColor;stroke-dasharray:4 3}.leader,.range{fill:none;stroke:currentColor;stroke-opacity:.55}\n\
         .mmsb{color:#0062b8}.floor{color:#808891}\n",
    );
    for (at, (light, _)) in PEERS.iter().enumerate() {
        _ = write!(text, ".p{at}{{color:{light}}}");
    }
    text.push_str(
        "\n@media (prefers-color-scheme:dark){\n\
         text{fill:#e6edf3}.soft{fill:#9aa4af}.ground,.hollow,.never{fill:#0d1117}.grid{stroke:#262c34}.axis{stroke:#6e7681}.whisker{stroke:#e6edf3}\n\
         .mmsb{color:#58b2ff}.floor{color:#8b949e}\n",
    );
    for (at, (_, dark)) in PEERS.iter().enumerate() {
        _ = write!(text, ".p{at}{{color:{dark}}}");
    }
    text.push_str("\n}\n");
    text
}

/// A place, to a tenth of a pixel and without needless digits.
fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" {
        "0".into()
    } else {
        text.to_owned()
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // XML has no way to write them.
            _ if character.is_control() => out.push(' '),
            _ => out.push(character),
        }
    }
    out
}

/// From values to pixels.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    /// Linear from nothing, with room above the greatest value.
    pub fn linear(max: f64, from: f64, to: f64) -> Scale {
        let max = if max > 0.0 { max } else { 1.0 };
        let step = step(max);
        Scale {
            low: 0.0,
            high: (max / step).ceil() * step,
            from,
            to,
            logarithmic: false,
        }
    }

    /// Logarithmic, between round numbers outside of the values.
    pub fn logarithmic(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Scale {
        // Nothing has no place here, and a million-millionth of a nanosecond is nothing.
        let positive = values.into_iter().filter(|value| *value > 1e-6);
        let (min, max) = positive.fold((f64::INFINITY, 0.0_f64), |(min, max), value| {
            (min.min(value), max.max(value))
        });
        let (min, max) = if max > 0.0 { (min, max) } else { (1.0, 10.0) };
        let (low, high) = (round_below(min), round_above(max));
        Scale {
            low,
            high: if high > low { high } else { low * 10.0 },
            from,
            to,
            logarithmic: true,
        }
    }

    /// Logarithmic, from and to exactly these.
    pub fn logarithmic_exact(low: f64, high: f64, from: f64, to: f64) -> Scale {
        Scale {
            low,
            high: if high > low { high } else { low * 2.0 },
            from,
            to,
            logarithmic: true,
        }
    }

    /// Where a value is; one beyond an end is at that end.
    pub fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// Round values for the axis.
    pub fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            let step = step(self.high);
            let count = (self.high / step).round() as u32;
            return (0..=count).map(|at| f64::from(at) * step).collect();
        }
        let decades = (self.high / self.low).log10();
        let factors: &[f64] = match decades {
            _ if decades <= 2.1 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let all = (first..=last).flat_map(|power| {
            factors
                .iter()
                .map(move |factor| factor * 10_f64.powi(power))
        });
        // A hair of room: powers are not exact.
        all.filter(|tick| (self.low * 0.999..=self.high * 1.001).contains(tick))
            .collect()
    }
}

/// The distance of four to ten ticks.
fn step(max: f64) -> f64 {
    let power = 10_f64.powf((max / 4.0).log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    let fits = steps.into_iter().rev().find(|step| *step * 4.0 <= max);
    fits.unwrap_or(power)
}

fn round_below(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let found = [5.0, 2.0, 1.0]
        .into_iter()
        .find(|factor| factor * power <= value);
    found.unwrap_or(1.0) * power
}

fn round_above(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let found = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| factor * power >= value);
    found.unwrap_or(10.0) * power
}

/// Moves labels apart, as little as it takes, within `top` and `bottom`. `wanted` is in order and stays so.
pub fn apart(wanted: &[f64], distance: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut places: Vec<f64> = wanted.to_vec();
    let mut least = top;
    for place in &mut places {
        *place = place.max(least);
        least = *place + distance;
    }
    let mut most = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - distance;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::made_up;

    #[test]
    fn a_logarithmic_scale_ends_at_round_numbers() {
        let scale = Scale::logarithmic([75.0, 0.0, 48_000.0], 0.0, 100.0);
        assert_eq!((scale.low, scale.high), (50.0, 50_000.0));
        assert_eq!(scale.at(50.0), 0.0);
        assert_eq!(scale.at(50_000.0), 100.0);
        assert_eq!(scale.at(1.0), 0.0, "what lies outside is at the end");
        assert_eq!(scale.ticks(), [100.0, 1000.0, 10_000.0]);
    }

    #[test]
    fn a_linear_scale_begins_at_nothing() {
        let scale = Scale::linear(70.0, 10.0, 110.0);
        assert_eq!(scale.at(0.0), 10.0);
        assert_eq!(
            scale.ticks(),
            [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0]
        );
        assert_eq!(Scale::linear(0.0, 0.0, 1.0).at(0.0), 0.0);
    }

    #[test]
    fn a_scale_of_nothing_or_one_value_is_still_one() {
        for values in [vec![], vec![0.0], vec![10.0]] {
            let scale = Scale::logarithmic(values, 0.0, 100.0);
            assert!(scale.at(10.0).is_finite());
            assert!(!scale.ticks().is_empty());
        }
    }

    #[test]
    fn labels_move_apart_and_stay_within() {
        assert_eq!(
            apart(&[10.0, 11.0, 50.0], 15.0, 0.0, 100.0),
            [10.0, 25.0, 50.0]
        );
        assert_eq!(apart(&[90.0, 95.0], 15.0, 0.0, 100.0), [85.0, 100.0]);
    }

    #[test]
    fn a_system_keeps_its_colour_and_floors_are_grey() {
        let results = made_up::results();
        let look = |name: &str| Look::of(results.contender(name).unwrap(), &results);
        assert_eq!(look("floor/line").class, "floor");
        assert_eq!(look("mmsb/cell").class, "mmsb");
        assert_ne!(look("mmsb/cell").dash, look("mmsb/ring").dash);
        let classes = ["a/offer", "b/queue", "c/store"].map(|name| look(name).class);
        assert_eq!(classes, ["p0", "p1", "p2"]);
    }

    #[test]
    fn text_cannot_end_its_element() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text("soft", (0.0, -0.01), Anchor::Start, "a<b & \u{1}c");
        let file = svg.finish("<t>", "d");
        assert!(file.contains("y=\"0\">a&lt;b &amp;  c</text>"));
        assert!(file.contains("&lt;t&gt;"));
    }
}
