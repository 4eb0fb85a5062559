//! Reports of results: a page of tables, and pictures for it.
//!
//! What is written by hand beside them comes from a folder of notes, `benches/peers/notes` in the tree that the report goes to:
//! `one_way.md` and so on at the end of a job's section, `behind.md` after the list of where MMSB is behind. Their headings
//! should be of the third level or deeper, and their links lead from where the report is.

mod markdown;
mod plots;
mod standing;
mod svg;
mod tables;
mod units;

#[cfg(test)]
mod made_up;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::results::{Job, Results, ResultsError};

/// Around what [`render_readme`] writes.
const MARKERS: [&str; 2] = ["<!-- performance -->", "<!-- /performance -->"];

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// The results contradict themselves.
    #[error("these results cannot be reported")]
    Results(#[from] ResultsError),
    /// A note or the README cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The report, a picture or the README cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The README does not say where the rows go.
    #[error("{path} needs one line {open} and after it one line {close}", open = MARKERS[0], close = MARKERS[1])]
    Markers {
        /// The README.
        path: PathBuf,
    },
}

/// Writes the report to `out` and its pictures to the folder `plots`, which is made if it is not there.
///
/// Pictures of an earlier report that this one has not are removed; other files in the folder stay. The same results
/// give the same bytes.
pub fn render(results: &Results, out: &Path, plots: &Path) -> Result<(), RenderError> {
    results.check()?;
    let notes_dir = notes_beside(out)?;
    let mut notes = BTreeMap::new();
    for job in Job::ALL {
        if let Some(text) = note(notes_dir.as_deref(), job.name())? {
            notes.insert(job, text);
        }
    }
    let behind = note(notes_dir.as_deref(), "behind")?;
    let pictures = plots::all(results);
    let text = tables::report(
        results,
        &tables::Extras {
            notes: &notes,
            behind: behind.as_deref(),
            plots: &pictures,
            plots_link: &link(out, plots)?,
        },
    );
    make_dir(plots)?;
    for picture in &pictures {
        let path = plots.join(picture.file);
        match &picture.svg {
            Some(svg) => write(&path, svg)?,
            None => remove(&path)?,
        }
    }
    if let Some(dir) = out.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        make_dir(dir)?;
    }
    write(out, &text)
}

/// Writes the three most telling rows into a README, between `<!-- performance -->` and `<!-- /performance -->`, with a link
/// to the report.
pub fn render_readme(results: &Results, readme: &Path, report: &Path) -> Result<(), RenderError> {
    results.check()?;
    let text = fs::read_to_string(readme).map_err(|source| RenderError::Read {
        path: readme.to_owned(),
        source,
    })?;
    let rows = tables::telling(results, &link(readme, report)?);
    let text = between(&text, &rows).ok_or_else(|| RenderError::Markers {
        path: readme.to_owned(),
    })?;
    write(readme, &text)
}

/// The text with what stands between the markers replaced; `None` unless each is there once, on a line of its own, in order.
fn between(text: &str, new: &str) -> Option<String> {
    let [open, close] = MARKERS.map(|marker| {
        let mut at = 0;
        let mut found = Vec::new();
        for line in text.split_inclusive('\n') {
            if line.trim() == marker {
                found.push(at..at + line.len());
            }
            at += line.len();
        }
        found
    });
    let ([open], [close]) = (open.as_slice(), close.as_slice()) else {
        return None;
    };
    if close.start < open.end {
        return None;
    }
    Some(format!(
        "{}\n{}\n\n{}",
        &text[..open.end],
        new.trim(),
        &text[close.start..]
    ))
}

/// The notes of the tree that a report goes to.
fn notes_beside(out: &Path) -> Result<Option<PathBuf>, RenderError> {
    let out = absolute(out)?;
    let dirs = out
        .ancestors()
        .skip(1)
        .map(|dir| dir.join("benches/peers/notes"));
    Ok(dirs.into_iter().find(|dir| dir.is_dir()))
}

fn note(dir: Option<&Path>, name: &str) -> Result<Option<String>, RenderError> {
    let Some(dir) = dir else {
        return Ok(None);
    };
    let path = dir.join(format!("{name}.md"));
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RenderError::Read { path, source }),
    }
}

/// How a page links to a file or folder: relative, so that the tree can be anywhere.
fn link(page: &Path, target: &Path) -> Result<String, RenderError> {
    let (page, target) = (absolute(page)?, absolute(target)?);
    let from: Vec<Component> = page.parent().unwrap_or(&page).components().collect();
    let to: Vec<Component> = target.components().collect();
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[shared..].iter().map(|_| "..".to_owned());
    let down = to[shared..]
        .iter()
        .map(|part| part.as_os_str().to_string_lossy().into_owned());
    let parts: Vec<String> = up.chain(down).collect();
    Ok(if parts.is_empty() {
        ".".into()
    } else {
        parts.join("/")
    })
}

/// From the root, with `.` and `..` taken out by name.
fn absolute(path: &Path) -> Result<PathBuf, RenderError> {
    let full = std::path::absolute(path).map_err(|source| RenderError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut plain = PathBuf::new();
    for part in full.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    Ok(plain)
}

fn make_dir(path: &Path) -> Result<(), RenderError> {
    fs::create_dir_all(path).map_err(|source| RenderError::Write {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, text: &str) -> Result<(), RenderError> {
    fs::write(path, text).map_err(|source| RenderError::Write {
        path: path.to_owned(),
        source,
    })
}

fn remove(path: &Path) -> Result<(), RenderError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RenderError::Write {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::FIGURE_MAX;

    fn files(dir: &Path) -> BTreeMap<String, String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect()
    }

    #[test]
    fn the_same_results_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let results = made_up::results();
        let mut other_order = results.clone();
        other_order.cases.reverse();
        let mut all = Vec::new();
        for (name, results) in [("a", &results), ("b", &results), ("c", &other_order)] {
            let docs = dir.path().join(name).join("docs");
            render(
                results,
                &docs.join("performance.md"),
                &docs.join("performance"),
            )
            .unwrap();
            let page = fs::read_to_string(docs.join("performance.md")).unwrap();
            all.push((page, files(&docs.join("performance"))));
        }
        assert_eq!(all[0], all[1]);
        assert_eq!(all[0], all[2]);
    }

    #[test]
    fn every_picture_is_linked_and_what_is_no_longer_measured_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (page, plots) = (dir.path().join("docs/p.md"), dir.path().join("docs/p"));
        let mut results = made_up::results();
        render(&results, &page, &plots).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        let pictures = files(&plots);
        assert!(pictures.contains_key("recovery.svg"));
        for name in pictures.keys() {
            assert!(
                text.contains(&format!("](p/{name})")),
                "{name} is not in the page"
            );
        }
        fs::write(plots.join("mine.svg"), "").unwrap();
        results.cases.retain(|case| case.job != Job::Recovery);
        render(&results, &page, &plots).unwrap();
        let pictures = files(&plots);
        assert!(!pictures.contains_key("recovery.svg"));
        assert!(pictures.contains_key("mine.svg"));
    }

    #[test]
    fn notes_of_the_same_tree_come_along() {
        let dir = tempfile::tempdir().unwrap();
        let notes = dir.path().join("benches/peers/notes");
        fs::create_dir_all(&notes).unwrap();
        fs::write(notes.join("throughput.md"), "A ring is a ring.\n").unwrap();
        fs::write(notes.join("behind.md"), "Reasons.\n").unwrap();
        let page = dir.path().join("docs/performance.md");
        render(
            &made_up::results(),
            &page,
            &dir.path().join("docs/performance"),
        )
        .unwrap();
        let text = fs::read_to_string(&page).unwrap();
        let place = |what: &str| text.find(what).unwrap();
        assert!(place("## Throughput") < place("A ring is a ring."));
        assert!(place("A ring is a ring.") < place("## Latest value"));
        assert!(place("## Where MMSB is behind") < place("Reasons."));
        assert!(place("Reasons.") < place("## How it is measured"));
    }

    #[test]
    fn the_readme_changes_between_its_markers_only() {
        let dir = tempfile::tempdir().unwrap();
        let readme = dir.path().join("README.md");
        fs::write(
            &readme,
            "# A\n<!-- performance -->\nold\n<!-- /performance -->\nb\n",
        )
        .unwrap();
        for _ in 0..2 {
            render_readme(
                &made_up::results(),
                &readme,
                &dir.path().join("docs/performance.md"),
            )
            .unwrap();
            let text = fs::read_to_string(&readme).unwrap();
            assert!(text.starts_with("# A\n<!-- performance -->\n\n| beside the peers"));
            assert!(text.ends_with(").\n\n<!-- /performance -->\nb\n"), "{text}");
            assert!(text.contains("(docs/performance.md)") && !text.contains("old"));
        }
        for wrong in ["nothing", "<!-- /performance -->\n<!-- performance -->\n"] {
            fs::write(&readme, wrong).unwrap();
            let error = render_readme(&made_up::results(), &readme, Path::new("p.md"));
            assert!(matches!(error, Err(RenderError::Markers { .. })));
            assert_eq!(fs::read_to_string(&readme).unwrap(), wrong);
        }
    }

    #[test]
    fn links_are_relative() {
        let links = |page: &str, target: &str| link(Path::new(page), Path::new(target)).unwrap();
        assert_eq!(links("/a/docs/p.md", "/a/docs/p/"), "p");
        assert_eq!(links("/a/docs/p.md", "/a/plots"), "../plots");
        assert_eq!(links("/a/README.md", "/a/b/../docs/p.md"), "docs/p.md");
        assert_eq!(links("docs/p.md", "docs"), ".");
    }

    #[test]
    fn a_picture_of_odd_figures_is_still_a_picture() {
        let mut results = made_up::results();
        for case in &mut results.cases {
            for round in &mut case.rounds {
                round.p50_ns = round.p50_ns.map(|_| 0.0);
                round.per_second = round.per_second.map(|_| FIGURE_MAX);
                round.reads_per_second = round.reads_per_second.map(|_| 0.0);
            }
            case.cdf = vec![(0.0, 0.0), (f64::MIN_POSITIVE, 1.0)];
        }
        for plot in plots::all(&results) {
            let svg = plot.svg.unwrap_or_default();
            assert!(
                !svg.contains("NaN") && !svg.contains("inf"),
                "{}: {svg}",
                plot.file
            );
        }
    }
}
