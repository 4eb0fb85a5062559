//! Random operations against a plain model in private memory, and against a replica that is rebuilt from a gating
//! subscription alone: all three must agree on every byte, epoch and name.

mod common;

use std::collections::BTreeMap;

use common::TestBus;
use mmsb::{Error, Event, From, PageError, PageId, PageSpec, Subscription};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Range {
    at: u16,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Op {
    Create {
        size: u16,
        cell: bool,
        named: bool,
    },
    Destroy(u8),
    Rename(u8, u8),
    Patch(u8, Range),
    Ranges(u8, Vec<Range>),
    Masked(u8, Range, Vec<bool>),
    Update(u8, Vec<Range>),
    Loan(u8, u8, bool),
    Batch(Vec<(u8, Range)>),
    Transaction {
        writes: Vec<(u8, Range)>,
        abort: bool,
    },
}

fn range(max: usize) -> impl Strategy<Value = Range> {
    (any::<u16>(), vec(any::<u8>(), 0..max)).prop_map(|(at, bytes)| Range { at, bytes })
}

fn op() -> impl Strategy<Value = Op> {
    let page = any::<u8>();
    prop_oneof![
        3 => (1u16..1500, any::<bool>(), any::<bool>())
            .prop_map(|(size, cell, named)| Op::Create { size, cell, named }),
        1 => page.prop_map(Op::Destroy),
        2 => (page, 0u8..6).prop_map(|(p, n)| Op::Rename(p, n)),
        6 => (page, range(1200)).prop_map(|(p, r)| Op::Patch(p, r)),
        4 => (page, vec(range(60), 0..6)).prop_map(|(p, r)| Op::Ranges(p, r)),
        4 => (page, range(300), vec(any::<bool>(), 300))
            .prop_map(|(p, r, m)| Op::Masked(p, r, m)),
        4 => (page, vec(range(40), 0..4)).prop_map(|(p, r)| Op::Update(p, r)),
        3 => (page, any::<u8>(), any::<bool>()).prop_map(|(p, b, k)| Op::Loan(p, b, k)),
        4 => vec((page, range(80)), 0..6).prop_map(Op::Batch),
        4 => (vec((page, range(80)), 0..6), prop::bool::weighted(0.2))
            .prop_map(|(writes, abort)| Op::Transaction { writes, abort }),
    ]
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct ModelPage {
    bytes: Vec<u8>,
    epoch: u64,
    name: String,
}

type Model = BTreeMap<PageId, ModelPage>;

/// A range made to fit a page of `size` bytes.
fn fit(range: &Range, size: usize) -> (usize, &[u8]) {
    let at = range.at as usize % (size + 1);
    (at, &range.bytes[..range.bytes.len().min(size - at)])
}

/// Disjoint ranges in ascending order.
fn disjoint(ranges: &[Range], size: usize) -> Vec<(usize, &[u8])> {
    let mut fitted: Vec<_> = ranges.iter().map(|r| fit(r, size)).collect();
    fitted.sort_by_key(|(at, bytes)| (*at, bytes.len()));
    let mut out: Vec<(usize, &[u8])> = Vec::new();
    for (at, bytes) in fitted {
        if out.last().is_none_or(|(a, b)| a + b.len() <= at) {
            out.push((at, bytes));
        }
    }
    out
}

fn too_large<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::Page(PageError::DeltaTooLarge { .. })) => None,
        Err(e) => panic!("{e}"),
    }
}

fn pick(model: &Model, n: u8) -> Option<PageId> {
    let index = n as usize % model.len().max(1);
    model.keys().nth(index).copied()
}

fn drain(subscription: &mut Subscription<'_>, replica: &mut Model) {
    while let Some(event) = subscription.try_next().unwrap() {
        match event {
            Event::Created(info) => {
                let page = ModelPage {
                    bytes: vec![0; info.size as usize],
                    epoch: info.epoch,
                    name: info.cold.name,
                };
                assert_eq!(replica.insert(info.id, page), None, "created twice");
            }
            Event::Described(info) => {
                replica.get_mut(&info.id).unwrap().name = info.cold.name;
            }
            Event::Destroyed(id) => {
                assert!(replica.remove(&id).is_some(), "destroyed twice");
            }
            Event::Delta(delta) => {
                let page = replica.get_mut(&delta.page).unwrap();
                delta.apply(&mut page.bytes);
                page.epoch += 1;
            }
            other => panic!("a gating subscription to everything got {other:?}"),
        }
    }
}

fn run(ops: &[Op]) {
    let bus = TestBus::small();
    let follower = bus.another("follower").unwrap();
    let mut subscription = follower.subscribe().gating(true).build().unwrap();
    let mut replica = Model::new();
    let mut model = Model::new();
    for op in ops {
        apply(&bus, op, &mut model);
        drain(&mut subscription, &mut replica);
    }
    assert_eq!(replica, model);
    let found: Model = bus
        .all_pages()
        .unwrap()
        .into_iter()
        .map(|info| {
            let page = bus.page_by_id(info.id).unwrap();
            let page = ModelPage {
                bytes: page.to_vec().unwrap(),
                epoch: page.version().unwrap().epoch,
                name: info.cold.name,
            };
            (info.id, page)
        })
        .collect();
    assert_eq!(found, model);
    // Who comes late and starts from a snapshot has the same.
    let mut late = follower.subscribe().from(From::Snapshot).build().unwrap();
    let mut images = BTreeMap::new();
    while let Some(event) = late.try_next().unwrap() {
        let Event::Image(image) = event else {
            panic!("{event:?}")
        };
        images.insert(image.id, (image.bytes, image.version.epoch));
    }
    let expected: BTreeMap<_, _> = model
        .into_iter()
        .map(|(id, p)| (id, (p.bytes, p.epoch)))
        .collect();
    assert_eq!(images, expected);
}

fn apply(bus: &TestBus, op: &Op, model: &mut Model) {
    match op {
        Op::Create { size, cell, named } => {
            let mut spec = PageSpec::new(u64::from(*size)).versions(if *cell { 4 } else { 1 });
            let name = if *named {
                format!("created/{}", model.len())
            } else {
                String::new()
            };
            if *named {
                spec = spec.name(&name);
            }
            match bus.create_page(spec) {
                Ok(page) => {
                    let fresh = ModelPage {
                        bytes: vec![0; *size as usize],
                        epoch: 0,
                        name,
                    };
                    assert_eq!(model.insert(page.id(), fresh), None);
                }
                Err(Error::Page(PageError::NameTaken(taken))) => {
                    assert!(model.values().any(|p| p.name == taken));
                }
                Err(e) => panic!("{e}"),
            }
        }
        Op::Destroy(n) => {
            let Some(id) = pick(model, *n) else { return };
            let page = bus.page_by_id(id).unwrap();
            bus.destroy(id).unwrap();
            model.remove(&id);
            assert!(page.read_range(0, &mut []).unwrap_err().is_page_gone());
            assert!(page.patch(0, &[]).unwrap_err().is_page_gone());
        }
        Op::Rename(n, name) => {
            let Some(id) = pick(model, *n) else { return };
            let name = if *name == 0 {
                String::new()
            } else {
                format!("renamed/{name}")
            };
            let taken = !name.is_empty() && model.iter().any(|(i, p)| *i != id && p.name == name);
            let result = bus.rename(id, &name);
            if taken {
                assert!(result.unwrap_err().is_exists());
            } else {
                result.unwrap();
                model.get_mut(&id).unwrap().name = name;
            }
        }
        Op::Patch(n, range) => {
            let Some(id) = pick(model, *n) else { return };
            let m = model.get_mut(&id).unwrap();
            let (at, bytes) = fit(range, m.bytes.len());
            let page = bus.page_by_id(id).unwrap();
            if too_large(page.patch(at, bytes)).is_some() {
                m.bytes[at..at + bytes.len()].copy_from_slice(bytes);
                m.epoch += 1;
            }
        }
        Op::Ranges(n, ranges) => {
            let Some(id) = pick(model, *n) else { return };
            let m = model.get_mut(&id).unwrap();
            let mut ranges = disjoint(ranges, m.bytes.len());
            // Whatever order they are given in.
            ranges.reverse();
            let page = bus.page_by_id(id).unwrap();
            if too_large(page.patch_many(&ranges)).is_some() {
                for (at, bytes) in ranges {
                    m.bytes[at..at + bytes.len()].copy_from_slice(bytes);
                }
                m.epoch += 1;
            }
        }
        Op::Masked(n, range, mask) => {
            let Some(id) = pick(model, *n) else { return };
            let m = model.get_mut(&id).unwrap();
            let (at, bytes) = fit(range, m.bytes.len());
            let mask: Vec<u8> = mask[..bytes.len()]
                .iter()
                .map(|b| u8::from(*b) * 7)
                .collect();
            let page = bus.page_by_id(id).unwrap();
            if too_large(page.write_masked(at, &mask, bytes)).is_some() {
                for (i, byte) in bytes.iter().enumerate().filter(|(i, _)| mask[*i] != 0) {
                    m.bytes[at + i] = *byte;
                }
                m.epoch += 1;
            }
        }
        Op::Update(n, ranges) => {
            let Some(id) = pick(model, *n) else { return };
            let m = model.get_mut(&id).unwrap();
            let page = bus.page_by_id(id).unwrap();
            let mut expected = m.bytes.clone();
            for r in ranges {
                let (at, bytes) = fit(r, expected.len());
                expected[at..at + bytes.len()].copy_from_slice(bytes);
            }
            let changed = page.update(|bytes| {
                assert_eq!(*bytes, *m.bytes);
                bytes.copy_from_slice(&expected);
            });
            if let Some(((), receipt)) = too_large(changed) {
                assert_eq!(receipt.is_some(), expected != m.bytes);
                m.epoch += u64::from(receipt.is_some());
                m.bytes = expected;
            }
        }
        Op::Loan(n, byte, publish) => {
            let Some(id) = pick(model, *n) else { return };
            let m = model.get_mut(&id).unwrap();
            let page = bus.page_by_id(id).unwrap();
            match page.loan() {
                Ok(mut loan) => {
                    loan.fill(*byte);
                    if *publish {
                        loan.publish().unwrap();
                        m.bytes.fill(*byte);
                        m.epoch += 1;
                        assert_eq!(*page.view().unwrap(), *m.bytes);
                    }
                }
                Err(Error::Page(PageError::NotLoaned(_))) => {
                    assert_eq!(page.info().unwrap().versions, 4, "only cells refuse");
                }
                Err(e) => panic!("{e}"),
            }
        }
        Op::Batch(writes) => {
            let (pages, plan) = plan(bus, model, writes);
            let mut batch = bus.batch();
            for (page, at, bytes) in &plan {
                batch.patch(&pages[*page], *at, bytes);
            }
            if too_large(batch.commit()).is_some() {
                commit_to(model, &pages, &plan);
            }
        }
        Op::Transaction { writes, abort } => {
            let (pages, plan) = plan(bus, model, writes);
            let mut staged = model.clone();
            let result = bus.transaction(|tx| {
                staged = model.clone();
                for (page, at, bytes) in &plan {
                    let page = &pages[*page];
                    tx.patch(page, *at, bytes)?;
                    let m = staged.get_mut(&page.id()).unwrap();
                    m.bytes[*at..at + bytes.len()].copy_from_slice(bytes);
                    assert_eq!(
                        tx.read_all(page)?,
                        m.bytes,
                        "a transaction reads its own writes"
                    );
                }
                if *abort {
                    return Err(Error::abort("on purpose"));
                }
                Ok(())
            });
            match result {
                Err(Error::Aborted(_)) => assert!(abort),
                other => {
                    if too_large(other).is_some() {
                        commit_to(model, &pages, &plan);
                        for (id, page) in &staged {
                            assert_eq!(page.bytes, model[id].bytes);
                        }
                    }
                }
            }
        }
    }
}

type Plan<'w> = Vec<(usize, usize, &'w [u8])>;

fn plan<'b, 'w>(
    bus: &'b TestBus,
    model: &Model,
    writes: &'w [(u8, Range)],
) -> (Vec<mmsb::Page<'b>>, Plan<'w>) {
    let mut pages = Vec::new();
    let mut plan = Vec::new();
    for (n, range) in writes {
        let Some(id) = pick(model, *n) else { break };
        let (at, bytes) = fit(range, model[&id].bytes.len());
        plan.push((pages.len(), at, bytes));
        pages.push(bus.page_by_id(id).unwrap());
    }
    (pages, plan)
}

fn commit_to(model: &mut Model, pages: &[mmsb::Page<'_>], plan: &Plan<'_>) {
    for (page, at, bytes) in plan {
        let m = model.get_mut(&pages[*page].id()).unwrap();
        m.bytes[*at..at + bytes.len()].copy_from_slice(bytes);
        m.epoch += 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        // PROPTEST_CASES, where it is set, is in the default.
        cases: if std::env::var_os("PROPTEST_CASES").is_some() {
            ProptestConfig::default().cases
        } else {
            192
        },
        ..ProptestConfig::default()
    })]

    #[test]
    fn memory_log_and_model_agree(ops in vec(op(), 1..60)) {
        run(&ops);
    }
}
