//! MMSB beside its peers: the same jobs, on the same machine, in the same run.
//!
//! Every measurement is made by processes of its own, pinned to a core each, started by [`runner`]. A job is a loop in
//! [`drive`] with a trait for what it asks of a system; a system, in [`systems`], implements the traits of the jobs that
//! it has. Rounds of all contenders take turns, so that a machine that drifts drifts for all of them.

mod contender;
mod drive;
mod machine;
mod measure;
mod render;
mod results;
mod runner;
mod systems;
mod task;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use contender::Contender;
use results::Results;
use runner::Runner;
use task::{Job, Task};

/// MMSB beside its peers: the same jobs, on the same machine, in the same run
#[derive(Parser)]
#[command(name = "mmsb-peers", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure
    Run(RunArgs),
    /// Write the pages and plots of results
    Render {
        /// What `run` wrote
        results: PathBuf,
        /// The page
        #[arg(long, default_value = "docs/performance.md")]
        out: PathBuf,
        /// The directory of the plots
        #[arg(long, default_value = "docs/performance")]
        plots: PathBuf,
        /// A page whose part between `<!-- performance -->` and `<!-- /performance -->` is to hold the most telling rows
        #[arg(long)]
        readme: Option<PathBuf>,
    },
    /// List jobs and contenders
    List,
    /// Be a process of a measurement
    #[command(hide = true)]
    Role { role: String, task: String },
}

#[derive(clap::Args)]
struct RunArgs {
    /// Where the results go
    #[arg(long, default_value = "results.json")]
    out: PathBuf,
    /// Measure for a short time: enough to see that everything works
    #[arg(long)]
    quick: bool,
    /// Rounds of each measurement: even, because they take turns in which core is which [default: 6, quick 2]
    #[arg(long)]
    rounds: Option<usize>,
    /// Only this job; may be given again
    #[arg(long = "job", value_name = "JOB", value_parser = clap::builder::PossibleValuesParser::new(Job::ALL.map(Job::name)))]
    jobs: Vec<String>,
    /// Only sizes of so many bytes; may be given again
    #[arg(long = "bytes", value_name = "BYTES")]
    bytes: Vec<usize>,
    /// Only contenders whose name begins so; may be given again
    #[arg(long = "contender", value_name = "NAME")]
    contenders: Vec<String>,
    /// The two cores, such as 0,2 [default: the first two that may be used]
    #[arg(long, value_name = "A,B", value_parser = two_cpus)]
    cpus: Option<(usize, usize)>,
    /// A directory on the disk [default: the current one]
    #[arg(long, value_name = "DIR")]
    disk: Option<PathBuf>,
    /// The command that people run to get these results
    #[arg(long, default_value = "mmsb-peers run", hide = true)]
    command: String,
}

fn two_cpus(text: &str) -> std::result::Result<(usize, usize), String> {
    let numbers: Vec<_> = text.split(',').map(|one| one.trim().parse()).collect();
    match numbers[..] {
        [Ok(first), Ok(second)] if first != second => Ok((first, second)),
        _ => Err("two different cores look like this: 0,2".to_owned()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(args) => run(&args),
        Command::Render {
            results,
            out,
            plots,
            readme,
        } => report(&results, &out, &plots, readme.as_deref()),
        Command::List => list(),
        Command::Role { role, task } => play(&role, &task),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mmsb-peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A process of a measurement.
fn play(role: &str, task: &str) -> Result<()> {
    let done = serde_json::from_str(task)
        .context("the task is not understood")
        .and_then(|task| part(role, &task));
    match done {
        Ok(Some(round)) => task::say(&serde_json::to_string(&round)?),
        Ok(None) => Ok(()),
        // One line, whatever it is made of.
        Err(error) => task::say(&format!("failed {error:#}").replace('\n', " ")),
    }
}

fn part(role: &str, task: &Task) -> Result<Option<measure::Round>> {
    task::end_with(task.parent)?;
    let contender = contender::all()
        .into_iter()
        .find(|contender| contender.name == task.contender)
        .with_context(|| format!("there is no contender {}", task.contender))?;
    if role == "server" {
        let server = contender.server.context("it has no server")?;
        return server(task).map(|()| None);
    }
    let entry = contender
        .entries
        .iter()
        .find(|entry| entry.job == task.job && entry.sizes.contains(&task.bytes))
        .context("it has no such job")?;
    let (part, cpu) = match role {
        "lead" => (Some(entry.lead), task.cpus.0),
        "peer" => (entry.peer, task.cpus.1),
        "victim" => (entry.victim, task.cpus.0),
        other => bail!("there is no role {other:?}"),
    };
    let part = part.context("nobody has this role")?;
    // Those who commit to the disk have more threads than cores.
    if task.job != Job::Synced {
        task::pin(cpu)?;
    }
    part(task).map(Some)
}

fn report(results: &Path, out: &Path, plots: &Path, readme: Option<&Path>) -> Result<()> {
    let results = Results::load(results)?;
    render::render(&results, out, plots)?;
    if let Some(readme) = readme {
        render::render_readme(&results, readme, out)?;
    }
    Ok(())
}

fn chosen(args: &RunArgs) -> Result<Vec<Contender>> {
    let all = contender::all();
    let names: Vec<_> = all.iter().map(|each| each.name).collect();
    for wanted in &args.contenders {
        if !names.iter().any(|name| name.starts_with(wanted.as_str())) {
            bail!(
                "no contender is called {wanted}...; there are {}",
                names.join(", ")
            );
        }
    }
    Ok(all
        .into_iter()
        .filter(|contender| {
            args.contenders.is_empty()
                || args
                    .contenders
                    .iter()
                    .any(|wanted| contender.name.starts_with(wanted.as_str()))
        })
        .collect())
}

fn run(args: &RunArgs) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("mmsb-peers: this is a debug build: the figures mean nothing");
    }
    let contenders = chosen(args)?;
    let cpus = match args.cpus {
        Some(cpus) => cpus,
        None => mmsb_benches::floor::two_cpus()?,
    };
    let disk = args.disk.clone().unwrap_or_else(|| PathBuf::from("."));
    let disk = disk
        .canonicalize()
        .with_context(|| format!("{}", disk.display()))?;
    let runner = Runner {
        rounds: args.rounds.unwrap_or(if args.quick { 2 } else { 6 }).max(1),
        quick: args.quick,
        cpus,
        dir: PathBuf::from("/dev/shm"),
        disk,
    };
    for base in [&runner.dir, &runner.disk] {
        runner::sweep(base);
    }
    let mut results = Results::begin(&contenders, machine::describe(&runner));
    results.date = machine::date();
    results.commit = machine::commit();
    results.command = args.command.clone();
    results.quick = args.quick;
    results.rounds = runner.rounds;
    let mut lines = Vec::new();
    for plan in runner::plans() {
        let is_wanted = (args.jobs.is_empty()
            || args.jobs.iter().any(|job| job == plan.job.name()))
            && (args.bytes.is_empty() || args.bytes.contains(&plan.bytes));
        if !is_wanted {
            continue;
        }
        lines.push(machine::line_ns(cpus)?);
        let threads = match plan.job {
            Job::Synced => format!(", {} threads", plan.threads),
            _ => String::new(),
        };
        eprintln!("{} of {} B{threads}", plan.job, plan.bytes);
        let cases = runner.run(plan, &contenders, |contender, done| match done {
            Ok(round) => eprintln!("  {:<24} {}", contender.name, results::brief(round)),
            Err(why) => eprintln!("  {:<24} failed: {why}", contender.name),
        });
        results.cases.extend(cases);
    }
    results.machine.set_lines(&lines);
    if results.cases.is_empty() {
        bail!("nothing that was asked for is measured: see `mmsb-peers list`");
    }
    results.save(&args.out)?;
    eprintln!("written to {}", args.out.display());
    let failed: Vec<_> = results
        .cases
        .iter()
        .filter(|case| case.contender.starts_with("mmsb/"))
        .filter_map(|case| Some(format!("{}: {}", case.contender, case.skipped.as_ref()?)))
        .collect();
    if !failed.is_empty() {
        bail!("MMSB did not do all of its jobs: {}", failed.join("; "));
    }
    Ok(())
}

fn list() -> Result<()> {
    for contender in contender::all() {
        let mut jobs: Vec<_> = contender
            .entries
            .iter()
            .map(|entry| entry.job.name())
            .collect();
        jobs.dedup();
        let here = match (contender.is_here)() {
            Ok(()) => String::new(),
            Err(why) => format!(" (left out: {why})"),
        };
        println!("{:<24} {}{here}", contender.name, jobs.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        assert_eq!(two_cpus("3, 1"), Ok((3, 1)));
        for bad in ["", "1", "1,1", "a,b", "1,2,3"] {
            assert!(two_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_contenders_differ_and_say_what_was_set_up() {
        let all = contender::all();
        for (at, contender) in all.iter().enumerate() {
            let same = |other: &Contender| other.name == contender.name;
            assert_eq!(all.iter().position(same), Some(at), "{}", contender.name);
            assert!(!contender.config.is_empty() && !contender.label.is_empty());
        }
    }
}
