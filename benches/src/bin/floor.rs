//! Prints what the machine itself takes, without MMSB: cache lines between two processes, memcpy, a futex wake.
//!
//! `floor [--bytes N]... [--cpus A,B] [--rounds N] [--json]`

use std::process::ExitCode;

use mmsb_benches::floor::{Effort, futex_wake_ns_on, memcpy_ns, one_way_ns_on, two_cpus};

const USAGE: &str = "usage: floor [--bytes N]... [--cpus A,B] [--rounds N] [--json]";

struct Options {
    sizes: Vec<usize>,
    cpus: (usize, usize),
    effort: Effort,
    json: bool,
}

fn options() -> Result<Options, String> {
    let cpus = two_cpus().map_err(|error| error.to_string())?;
    let mut options = Options {
        sizes: Vec::new(),
        cpus,
        effort: Effort::default(),
        json: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        let number = |text: &str| {
            text.parse::<usize>()
                .map_err(|_| format!("{text:?} is not a number"))
        };
        match argument.as_str() {
            "--json" => options.json = true,
            "--bytes" => options.sizes.push(number(&value()?)?),
            "--rounds" => options.effort.rounds = number(&value()?)?,
            "--cpus" => {
                let text = value()?;
                let (first, second) = text.split_once(',').ok_or(USAGE)?;
                options.cpus = (number(first)?, number(second)?);
                if options.cpus.0 == options.cpus.1 {
                    return Err("two different cores are needed: both sides poll".into());
                }
            }
            _ => return Err(USAGE.into()),
        }
    }
    if options.sizes.is_empty() {
        options.sizes = vec![0, 8, 56, 64, 256, 1024, 65536, 1 << 20];
    }
    Ok(options)
}

fn measure(options: &Options) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for &bytes in &options.sizes {
        lines.push((
            bytes,
            one_way_ns_on(options.cpus, bytes, options.effort)?,
            memcpy_ns(bytes),
        ));
    }
    let wake = futex_wake_ns_on(options.cpus, 2001)?;
    let (first, second) = options.cpus;
    if options.json {
        let sizes: Vec<String> = lines
            .iter()
            .map(|(bytes, line, copy)| {
                format!("{{\"bytes\":{bytes},\"one_way_ns\":{line:.1},\"memcpy_ns\":{copy:.1}}}")
            })
            .collect();
        println!(
            "{{\"cpus\":[{first},{second}],\"futex_wake_p50_ns\":{wake:.0},\"sizes\":[{}]}}",
            sizes.join(",")
        );
    } else {
        println!(
            "floor: two processes on cores {first} and {second}, polling; ns, least of the rounds' medians"
        );
        println!("{:>10} {:>12} {:>12}", "bytes", "one way", "memcpy");
        for (bytes, line, copy) in lines {
            println!("{bytes:>10} {line:>12.1} {copy:>12.1}");
        }
        println!("futex wake, store to return, p50: {wake:.0} ns");
    }
    Ok(())
}

fn main() -> ExitCode {
    let result = options().and_then(|options| measure(&options).map_err(|error| error.to_string()));
    if let Err(error) = result {
        eprintln!("floor: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
