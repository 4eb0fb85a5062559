//! The status pages: HTML and SVG made here, for a browser that may load nothing else and run no script.
//!
//! Names come from shared memory and from a file; everything that is not written here is escaped.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::buses::{AgentView, BusView, Sample};
use super::supervise::LogState;
use crate::cli::info::age;
use crate::cli::table::{bytes, count, duration, rate};

/// What the pages are.
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// Seconds between two loads.
const REFRESH: u32 = 5;
/// Size of a plot, and the room for its labels.
const PLOT: (f64, f64) = (560.0, 150.0);
const MARGIN: (f64, f64, f64) = (64.0, 10.0, 22.0);

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--dim:#667085;--line:#d9dee7;--back:#f6f7f9;--card:#fff;--good:#12805c;--bad:#c0362c;--warn:#b26a00;--a:#2563c9;--b:#c2571a}\
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#98a2b3;--line:#313a48;--back:#12161c;--card:#1a2029;--good:#3ccf91;--bad:#ff7a6e;--warn:#f0b04a;--a:#6ea8ff;--b:#ff9f5a}}\
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:14px/1.45 system-ui,sans-serif}\
main{max-width:1240px;margin:0 auto;padding:20px 24px 40px}a{color:var(--a);text-decoration:none}a:hover{text-decoration:underline}\
h1{font-size:20px;margin:0 0 2px}h2{font-size:15px;margin:0 0 8px}.dim{color:var(--dim)}h2.bus{margin:24px 0 -6px}.n+td:not(.n),.n+th:not(.n){padding-left:28px}\
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px;margin-top:16px;overflow-x:auto}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:16px}.plots .card{margin-top:0}.plots{margin-top:16px}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th{font-weight:600;color:var(--dim);font-size:12px}\
th,td{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--line);white-space:nowrap}tr:last-child td{border-bottom:0}\
.n{text-align:right}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}\
.tiles{display:flex;flex-wrap:wrap;gap:10px 28px}.tiles b{display:block;font-size:18px;font-weight:600}.tiles span{color:var(--dim);font-size:12px}\
ul.problems{margin:0;padding-left:18px}svg{display:block;width:100%;height:auto}svg text{fill:var(--dim);font-size:11px}\
.grid{stroke:var(--line)}.a{stroke:var(--a);fill:none;stroke-width:1.6}.b{stroke:var(--b);fill:none;stroke-width:1.6}.ka{fill:var(--a)}.kb{fill:var(--b)}";

/// Text that cannot become markup.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters have no place in HTML.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A path of which each byte that means something in a URL is escaped.
fn url_of(name: &str) -> String {
    let mut out = String::from("/bus/");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            out.push(char::from(byte));
        } else {
            // A string takes everything.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A table; cells are HTML already. Columns whose heading begins with `#` are numbers.
fn table(out: &mut String, id: &str, headings: &[&str], rows: &[Vec<String>]) {
    let class = |heading: &str| {
        if heading.starts_with('#') {
            " class=\"n\""
        } else {
            ""
        }
    };
    let _ = write!(out, "<table id=\"{id}\"><thead><tr>");
    for heading in headings {
        let text = escaped(heading.trim_start_matches('#'));
        let _ = write!(out, "<th{}>{text}</th>", class(heading));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (cell, heading) in row.iter().zip(headings) {
            let _ = write!(out, "<td{}>{cell}</td>", class(heading));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table>");
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><meta http-equiv=\"refresh\" content=\"{REFRESH}\">\
         <style>{STYLE}</style></head><body><main>{body}</main></body></html>\n",
        escaped(title)
    )
}

/// The list of problems, with the bus where that is not clear.
fn problems(out: &mut String, views: &[&BusView], with_bus: bool) {
    if views.iter().all(|view| view.problems.is_empty()) {
        return;
    }
    out.push_str("<section class=\"card\"><h2 class=\"bad\">Problems</h2><ul class=\"problems\">");
    for view in views {
        for problem in &view.problems {
            let bus = if with_bus {
                format!("<b>{}</b>: ", escaped(&view.name))
            } else {
                String::new()
            };
            let message = escaped(&problem.message);
            let _ = write!(
                out,
                "<li>{bus}{message} <span class=\"dim\">({})</span></li>",
                problem.kind
            );
        }
    }
    out.push_str("</ul></section>");
}

fn state(view: &BusView) -> String {
    let class = if view.problems.is_empty() {
        "good"
    } else {
        "bad"
    };
    format!("<span class=\"{class}\">{}</span>", escaped(&view.state()))
}

/// What is durable, in words.
fn durable(view: &BusView) -> String {
    match view.log.state {
        LogState::None => "volatile".to_owned(),
        LogState::Failed { .. } => "<span class=\"bad\">log failed</span>".to_owned(),
        _ if view.durable_lag_lsn() == 0 => "all".to_owned(),
        _ if view.durable_lag.is_zero() => format!("{} behind", count(view.durable_lag_lsn())),
        _ => format!(
            "{} behind ({})",
            count(view.durable_lag_lsn()),
            duration(view.durable_lag)
        ),
    }
}

/// The page about all buses.
pub fn index(agent: &AgentView, is_healthy: bool, views: &[BusView]) -> String {
    let uptime = SystemTime::now()
        .duration_since(agent.started_at)
        .unwrap_or_default();
    let (class, words) = if is_healthy {
        ("good", "healthy")
    } else {
        ("bad", "unhealthy")
    };
    let mut out = format!(
        "<h1>mmsb-agent <span class=\"{class}\" id=\"health\">{words}</span></h1><p class=\"dim\">version {}, up {} · \
         <a href=\"/metrics\">metrics</a> · <a href=\"/healthz\">health</a></p>",
        env!("CARGO_PKG_VERSION"),
        duration(Duration::from_secs(uptime.as_secs())),
    );
    if let Some(error) = &agent.reload_error {
        let _ = write!(
            out,
            "<section class=\"card\"><span class=\"warn\">The configuration was not reloaded:</span> {}</section>",
            escaped(error)
        );
    }
    let all: Vec<&BusView> = views.iter().collect();
    problems(&mut out, &all, true);
    let rows: Vec<Vec<String>> = views
        .iter()
        .map(|view| {
            let name = escaped(&view.name);
            let stats = view.stats.as_ref();
            let info = view.info.as_ref();
            vec![
                format!("<a href=\"{}\">{name}</a>", url_of(&view.name)),
                state(view),
                stats.map_or(String::new(), |s| count(s.pages)),
                info.map_or(String::new(), |i| bytes(i.pages_blocks_bytes)),
                count(view.participants()),
                escaped(&rate(view.delta_rate)),
                count(view.cursor_lag()),
                durable(view),
            ]
        })
        .collect();
    out.push_str("<section class=\"card\"><h2>Buses</h2>");
    if rows.is_empty() {
        out.push_str("<p class=\"dim\">none is configured</p>");
    } else {
        let headings = [
            "bus",
            "state",
            "#pages",
            "#memory",
            "#participants",
            "#deltas/s",
            "#cursor lag",
            "durable",
        ];
        table(&mut out, "buses", &headings, &rows);
    }
    out.push_str("</section>");
    for view in views {
        let _ = write!(
            out,
            "<h2 class=\"bus\"><a href=\"{}\">{}</a></h2>",
            url_of(&view.name),
            escaped(&view.name)
        );
        plots(&mut out, view);
    }
    document("mmsb-agent", &out)
}

/// The page about one bus.
pub fn bus(view: &BusView) -> String {
    let name = escaped(&view.name);
    let mut out = format!(
        "<p><a href=\"/\">all buses</a></p><h1>{name} {}</h1><p class=\"dim\">in {}{}</p>",
        state(view),
        escaped(&view.dir.display().to_string()),
        view.info.as_ref().map_or(String::new(), |info| format!(
            ", id {}, incarnation {}, created {}",
            escaped(&info.id),
            info.incarnation,
            escaped(&age(info.created_ns))
        )),
    );
    problems(&mut out, &[view], false);
    tiles(&mut out, view);
    plots(&mut out, view);
    let rows: Vec<Vec<String>> = view
        .hot
        .iter()
        .map(|page| {
            vec![
                escaped(&page.name),
                escaped(&page.id),
                bytes(page.size.into()),
                count(page.epoch),
                page.lsn.to_string(),
                escaped(&rate(page.rate)),
            ]
        })
        .collect();
    out.push_str("<section class=\"card\"><h2>Hottest pages</h2>");
    let headings = ["page", "id", "#size", "#epoch", "#last LSN", "#deltas/s"];
    table(&mut out, "pages", &headings, &rows);
    out.push_str("</section>");
    let Some(stats) = &view.stats else {
        return document(&format!("{} – mmsb-agent", view.name), &out);
    };
    let rows: Vec<Vec<String>> = stats
        .cursors
        .iter()
        .map(|cursor| {
            let owner = stats
                .participants
                .iter()
                .find(|p| p.index == cursor.participant);
            vec![
                format!("#{}", cursor.index),
                owner.map_or(String::new(), |p| escaped(&p.name)),
                if cursor.gating { "gating" } else { "lossy" }.to_owned(),
                cursor.position.to_string(),
                count(cursor.lag),
                count(cursor.missed),
            ]
        })
        .collect();
    out.push_str("<section class=\"card\"><h2>Subscriptions</h2>");
    if rows.is_empty() {
        out.push_str("<p class=\"dim\">none with a cursor</p>");
    } else {
        let headings = ["cursor", "of", "kind", "#position", "#lag", "#missed"];
        table(&mut out, "cursors", &headings, &rows);
    }
    out.push_str("</section><section class=\"card\"><h2>Participants</h2>");
    let rows: Vec<Vec<String>> = stats
        .participants
        .iter()
        .map(|p| {
            vec![
                escaped(&p.name),
                p.pid.to_string(),
                if p.alive {
                    "alive".to_owned()
                } else {
                    "<span class=\"bad\">dead</span>".to_owned()
                },
                escaped(&age(p.joined_ns)),
                count(p.deltas),
                bytes(p.bytes),
                count(p.waits),
                count(p.retries),
            ]
        })
        .collect();
    let headings = [
        "participant",
        "#pid",
        "state",
        "joined",
        "#deltas",
        "#bytes",
        "#waits",
        "#retries",
    ];
    table(&mut out, "participants", &headings, &rows);
    out.push_str("</section>");
    log(&mut out, view);
    document(&format!("{} – mmsb-agent", view.name), &out)
}

fn tiles(out: &mut String, view: &BusView) {
    let mut tiles = vec![
        ("deltas a second", escaped(&rate(view.delta_rate))),
        ("published LSN", view.published_lsn.to_string()),
        ("cursor lag", count(view.cursor_lag())),
        ("durable", durable(view)),
        ("participants", count(view.participants())),
        ("recovered by the agent", count(view.recovered)),
    ];
    if let (Some(stats), Some(info)) = (&view.stats, &view.info) {
        tiles.push(("deltas", count(stats.deltas)));
        let pages = format!("{} of {}", count(stats.pages), count(info.pages_max.into()));
        tiles.push(("pages", pages));
        let memory = format!(
            "{} of {}",
            bytes(info.pages_blocks_bytes),
            bytes(info.bytes_max)
        );
        tiles.push(("memory", memory));
        tiles.push(("ring", bytes(info.ring_bytes)));
    }
    for standing in &view.limits {
        let class = if standing.is_exceeded { "bad" } else { "good" };
        let text = format!("{} of {}", count(standing.used), count(standing.limit));
        let text = format!("<span class=\"{class}\">{text}</span>");
        tiles.push((standing.what.name(), text));
    }
    out.push_str("<section class=\"card\"><div class=\"tiles\">");
    for (name, text) in tiles {
        let _ = write!(out, "<div><span>{name}</span><b>{text}</b></div>");
    }
    out.push_str("</div></section>");
}

fn log(out: &mut String, view: &BusView) {
    let log = &view.log;
    if view.log_dir.is_none() && log.state == LogState::None {
        return;
    }
    let quantile = |q| {
        log.write_times
            .quantile(q)
            .map_or_else(|| "–".to_owned(), seconds)
    };
    let mut rows = vec![
        (
            "directory",
            view.log_dir.as_ref().map_or_else(
                || "of another supervisor".to_owned(),
                |dir| escaped(&dir.display().to_string()),
            ),
        ),
        ("state", log.state.name().to_owned()),
        ("durable LSN", log.durable_lsn.to_string()),
        ("holds", format!("LSN {} on", log.from_lsn)),
        (
            "on disk",
            format!(
                "{}, {} files begun",
                bytes(log.disk_bytes),
                count(log.files)
            ),
        ),
        (
            "writes",
            format!("{} of {}", count(log.writes), bytes(log.bytes)),
        ),
        (
            "write time",
            format!("{} median, {} 99 %", quantile(0.5), quantile(0.99)),
        ),
        (
            "checkpoint",
            match log.checkpoint_lsn {
                0 => "none".to_owned(),
                lsn => format!(
                    "LSN {lsn}, {}, {} in {}",
                    escaped(&age(log.checkpoint_ns)),
                    bytes(log.checkpoint_bytes),
                    duration(log.checkpoint_took)
                ),
            },
        ),
    ];
    if let Some(supervised) = &view.supervised {
        rows.push(("role", supervised.role.name().to_owned()));
        rows.push(("in flight", supervised.in_flight.to_string()));
        if let Some((done, all)) = supervised.checkpoint_progress {
            let text = format!("{} of {}", bytes(done), bytes(all));
            rows.push(("checkpoint under way", text));
        }
        let errors = [
            ("error", &supervised.error),
            ("upkeep", &supervised.upkeep_error),
        ];
        for (name, error) in errors {
            if let Some(error) = error {
                let text = format!("<span class=\"bad\">{}</span>", escaped(error));
                rows.push((name, text));
            }
        }
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, text)| vec![name.to_owned(), text])
        .collect();
    out.push_str("<section class=\"card\"><h2>Log</h2>");
    table(out, "log", &["", ""], &rows);
    out.push_str("</section>");
}

/// Seconds, as people write them.
fn seconds(value: f64) -> String {
    match Duration::try_from_secs_f64(value) {
        Ok(Duration::ZERO) | Err(_) => "0".to_owned(),
        Ok(value) => duration(value),
    }
}

/// A line of a plot.
struct Line<'a> {
    name: &'a str,
    values: Vec<Option<f64>>,
}

fn plots(out: &mut String, view: &BusView) {
    let history: Vec<&Sample> = view.history.iter().collect();
    let take = |f: fn(&Sample) -> Option<f64>| history.iter().map(|s| f(s)).collect::<Vec<_>>();
    out.push_str("<div class=\"plots\">");
    let rates = Line {
        name: "deltas a second",
        values: take(|s| Some(s.delta_rate)),
    };
    plot(out, "rate", "Deltas a second", &history, &[rates], |v| {
        if v == 0.0 {
            return "0".to_owned();
        }
        rate(v).trim_end_matches("/s").to_owned()
    });
    let lag = Line {
        name: "slowest cursor",
        values: take(|s| Some(s.cursor_lag as f64)),
    };
    plot(
        out,
        "lag",
        "Lag of subscriptions, in LSNs",
        &history,
        &[lag],
        |v| count(v as u64),
    );
    if view.log.state != LogState::None {
        let durable = Line {
            name: "oldest delta that is not durable",
            values: take(|s| s.durable_lag_s),
        };
        plot(out, "durable", "Durable lag", &history, &[durable], seconds);
        let lines = [
            Line {
                name: "median",
                values: take(|s| s.write_p50_s),
            },
            Line {
                name: "99 %",
                values: take(|s| s.write_p99_s),
            },
        ];
        let title = "Latency of durable writes";
        plot(out, "latency", title, &history, &lines, seconds);
    }
    out.push_str("</div>");
}

/// A rounded number at or above `value`: 1, 2 or 5 times a power of ten.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let fits = steps.into_iter().find(|step| *step >= value * 0.999_999);
    fits.unwrap_or(power * 10.0)
}

fn plot(
    out: &mut String,
    kind: &str,
    title: &str,
    history: &[&Sample],
    lines: &[Line<'_>],
    label: impl Fn(f64) -> String,
) {
    let (width, height) = PLOT;
    let (left, top, bottom) = MARGIN;
    let (right, base) = (width - 12.0, height - bottom);
    let values = lines.iter().flat_map(|line| line.values.iter().flatten());
    let most = ceiling(values.fold(0.0, |a: f64, b| a.max(*b)));
    let end = history.last().map_or(0, |s| s.at_ms);
    let begin = history.first().map_or(0, |s| s.at_ms);
    // A minute at least, so that the first seconds do not fill the plot.
    let span = (end - begin).max(60_000) as f64;
    let x = |at: u64| right - (end - at) as f64 / span * (right - left);
    let y = |value: f64| base - (value / most).clamp(0.0, 1.0) * (base - top);
    let _ = write!(
        out,
        "<section class=\"card\"><h2>{title}</h2><svg class=\"plot plot-{kind}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\" aria-label=\"{title}\">"
    );
    for part in [0.0, 0.5, 1.0] {
        let (value, at) = (most * part, y(most * part));
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            at + 4.0,
            escaped(&label(value))
        );
    }
    let ago = duration(Duration::from_secs((span / 1000.0) as u64));
    let _ = write!(
        out,
        "<text x=\"{left}\" y=\"{:.1}\">{} ago</text><text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">now</text>",
        height - 5.0,
        escaped(&ago),
        height - 5.0
    );
    for (line, class) in lines.iter().zip(["a", "b"]) {
        let mut points = String::new();
        let mut is_drawn = false;
        for (sample, value) in history.iter().zip(&line.values) {
            match value {
                Some(value) => {
                    let pen = if is_drawn { 'L' } else { 'M' };
                    let _ = write!(points, "{pen}{:.1} {:.1}", x(sample.at_ms), y(*value));
                    is_drawn = true;
                }
                // Nothing was measured: the line has a gap.
                None => is_drawn = false,
            }
        }
        let _ = write!(out, "<path class=\"{class}\" d=\"{points}\"/>");
    }
    if lines.len() > 1 {
        for (i, (line, class)) in lines.iter().zip(["ka", "kb"]).enumerate() {
            let at = left + 120.0 + 90.0 * i as f64;
            let _ = write!(
                out,
                "<rect class=\"{class}\" x=\"{at}\" y=\"{:.1}\" width=\"10\" height=\"3\"/>\
                 <text x=\"{}\" y=\"{:.1}\">{}</text>",
                height - 10.0,
                at + 14.0,
                height - 5.0,
                escaped(line.name)
            );
        }
    }
    out.push_str("</svg></section>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::supervise::LogSeen;

    #[test]
    fn names_cannot_become_markup() {
        let name = "<script>alert(1)</script>&\"'/ä\u{1b}";
        let view = BusView {
            name: name.to_owned(),
            ..BusView::default()
        };
        let page = bus(&view);
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;/ä\u{fffd}"));
        assert_eq!(url_of("a b/\"é"), "/bus/a%20b%2F%22%C3%A9");
    }

    #[test]
    fn a_logged_bus_has_plots_of_lag_and_latency_with_gaps_where_nothing_was_measured() {
        let sample = |at_ms, write| Sample {
            at_ms,
            delta_rate: 100.0,
            durable_lag_s: Some(0.002),
            write_p50_s: write,
            write_p99_s: write,
            ..Sample::default()
        };
        let view = BusView {
            name: "b".to_owned(),
            log: LogSeen {
                state: LogState::Running,
                ..LogSeen::default()
            },
            history: [
                sample(1000, Some(1e-4)),
                sample(2000, None),
                sample(3000, Some(2e-4)),
            ]
            .into(),
            ..BusView::default()
        };
        let page = bus(&view);
        for kind in ["rate", "lag", "durable", "latency"] {
            assert!(page.contains(&format!("plot-{kind}")), "{kind}");
        }
        let latency = page.split("plot-latency").nth(1).unwrap();
        let line = latency.split("class=\"a\" d=\"").nth(1).unwrap();
        let line = line.split('"').next().unwrap();
        assert_eq!(
            (line.matches('M').count(), line.matches('L').count()),
            (2, 0),
            "{line}"
        );
        assert!(!page.contains("NaN"), "{page}");
    }

    #[test]
    fn ceilings_are_round() {
        for (value, round) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.1, 2.0),
            (37.0, 50.0),
            (0.0003, 0.0005),
            (6e4, 1e5),
        ] {
            assert!((ceiling(value) / round - 1.0f64).abs() < 1e-9, "{value}");
        }
    }
}
