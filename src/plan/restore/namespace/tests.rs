//! Tests that every source of a namespace is restored from the newest good snapshot of the requested time, or refused
//! with the cause.

use proptest::prelude::*;
use serde_json::json;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::*;
use crate::plan::{
    fixtures::{at, plan_of, planned},
    sources::{PlannedSource, Workload},
};

const HOST: &str = "mill";
const DATABASE: &str = "deployment/press/vat";

/// A snapshot which owns the fields that [`SnapshotRecord`] borrows.
#[derive(Clone, Debug)]
struct Stored {
    id: String,
    time: Timestamp,
    identity: SnapshotIdentity,
    paths: Vec<String>,
}

fn stored(id: &str, seconds: i64, host: &str, path: &str, tags: &[&str]) -> Stored {
    let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
    Stored {
        id: format!("{id:0<64}"),
        time: at(seconds),
        identity: SnapshotIdentity { host: host.into(), path: path.into(), tags },
        paths: vec![path.into()],
    }
}

fn casks(id: &str, seconds: i64, tags: &[&str]) -> Stored {
    stored(id, seconds, HOST, "/data/casks", &[&["source=pvc/casks"], tags].concat())
}

fn database(id: &str, seconds: i64) -> Stored {
    stored(id, seconds, HOST, "/mill-vat.sql", &[&format!("source={DATABASE}")])
}

fn request() -> NamespaceRequest<'static> {
    NamespaceRequest {
        host: HOST,
        as_of: None,
        cluster: "here",
        now: at(1000),
        only: None,
        create: None,
        overwrite: false,
        scale_down: false,
    }
}

fn snapshot_record(stored: &Stored) -> SnapshotRecord<'_> {
    let Stored { id, time, identity, paths } = stored;
    SnapshotRecord { id, time: *time, identity, paths, bytes: None }
}

/// The only Repository.
fn only(snapshots: Vec<SnapshotRecord<'_>>) -> [RepositorySnapshots<'_>; 1] {
    [RepositorySnapshots { name: "cellar".into(), snapshots, is_unread: false }]
}

/// The existing objects of the namespace to restore into.
#[derive(Default)]
struct There {
    claims: Vec<&'static str>,
    pods: Vec<ObservedPod>,
    sources: Vec<&'static str>,
}

/// The specs of the planned Restores, and the refused sources.
fn plan(request: NamespaceRequest<'_>, stored: &[Stored], there: &There) -> (Vec<RestoreSpec>, Vec<RefusedSource>) {
    let planned: Vec<_> = there.sources.iter().map(|name| planned(name, None)).collect();
    let claims = there.claims.iter().map(|&name| name.to_owned()).collect();
    let (snapshots, sources): (Vec<_>, _) = (stored.iter().map(snapshot_record).collect(), plan_of(&planned));
    let facts = NamespaceFacts {
        repositories: &only(snapshots),
        is_named: false,
        claims: &claims,
        pods: &there.pods,
        sources: &sources,
    };
    let plan = plan_namespace(request, facts);
    (plan.restores.into_iter().map(|chosen| chosen.spec).collect(), plan.refused)
}

fn summaries(specs: &[RestoreSpec]) -> Vec<String> {
    let summary = |spec: &RestoreSpec| {
        assert_eq!(spec.from.host.as_deref(), Some(HOST), "the Restore would use its own namespace");
        format!("{}={}", spec.from.source, &spec.from.snapshot.as_ref().unwrap()[..2])
    };
    specs.iter().map(summary).collect()
}

fn refusals(refused: &[RefusedSource]) -> Vec<(&str, &Refusal)> {
    refused.iter().map(|one| (one.source.as_str(), &one.refusal)).collect()
}

fn all() -> There {
    There { claims: vec!["casks", "sacks"], pods: vec![], sources: vec![DATABASE] }
}

fn pod(name: &str, (kind, workload): (&str, &str), claims: &[&str]) -> ObservedPod {
    let volumes: Vec<_> =
        claims.iter().map(|claim| json!({ "name": claim, "persistentVolumeClaim": { "claimName": claim } })).collect();
    let pod = json!({ "metadata": { "name": name }, "spec": { "containers": [], "volumes": volumes } });
    ObservedPod {
        pod: serde_json::from_value(pod).unwrap(),
        workload: Workload { kind: kind.into(), name: workload.into() },
    }
}

#[test]
fn newest_proven_snapshot_of_each_source_comes_back_volumes_first() {
    let stored = [
        database("aa", 10),
        database("ab", 20),
        casks("ba", 10, &[]),
        casks("bb", 20, &[]),
        casks("bc", 30, &["unproven"]),
        casks("bd", 31, &["incomplete"]),
        casks("be", 32, &["safety"]),
        casks("bf", 33, &["suspect"]),
        casks("bg", 34, &["cluster=there"]),
        casks("bh", 9999, &[]),
        stored("ca", 40, "elsewhere", "/data/casks", &["source=pvc/casks"]),
        stored("cb", 40, "elsewhere", "/data/jars", &["source=pvc/jars"]),
    ];
    let (restores, refused) = plan(request(), &stored, &all());
    assert_eq!(summaries(&restores), ["pvc/casks=bb", &format!("{DATABASE}=ab")]);
    assert_eq!(refused, []);
    let claim = restores[0].to.as_ref().unwrap().claim.as_ref().unwrap();
    assert_eq!((claim.name.as_str(), claim.overwrite, &claim.create), ("casks", false, &None));
    assert_eq!((&restores[1].to, &restores[0].scale_down), (&None, &None));
}

#[test]
fn new_claim_is_as_requested_and_a_snapshot_without_a_recorded_claim_is_named() {
    let create = NewClaim { storage_class_name: Some("fast".into()), ..NewClaim::default() };
    let notes = |create: &NewClaim, stored: &[Stored], there: &There| -> Vec<bool> {
        let snapshots: Vec<_> = stored.iter().map(snapshot_record).collect();
        let claims = there.claims.iter().map(|&name| name.to_owned()).collect();
        let facts = NamespaceFacts {
            repositories: &only(snapshots),
            is_named: false,
            claims: &claims,
            pods: &[],
            sources: &plan_of(&[]),
        };
        let planned = plan_namespace(NamespaceRequest { create: Some(create), ..request() }, facts);
        planned.restores.iter().map(|chosen| chosen.note.as_ref().is_some_and(|note| note.contains("--size"))).collect()
    };
    let recorded = [casks("aa", 10, &["claim-size=1Gi"])];
    let older = [casks("aa", 10, &["device"])];
    assert_eq!(notes(&create, &recorded, &There::default()), [false]);
    assert_eq!(notes(&create, &older, &There::default()), [true]);
    // No claim is created.
    assert_eq!(notes(&create, &older, &all()), [false]);
    let sized = NewClaim { size: Some(Quantity("2Gi".into())), ..create.clone() };
    assert_eq!(notes(&sized, &older, &There::default()), [false]);
    let (restores, _) = plan(NamespaceRequest { create: Some(&create), ..request() }, &older, &There::default());
    let made = restores[0].to.as_ref().unwrap().claim.as_ref().unwrap().create.as_ref().unwrap();
    assert_eq!(made, &create, "the controller adds the recorded properties");
}

#[test]
fn no_snapshot_after_the_requested_time_is_chosen() {
    let stored = [database("aa", 10), casks("ba", 10, &[]), casks("bb", 20, &[]), database("ab", 21)];
    let (restores, _) = plan(NamespaceRequest { as_of: Some(at(20)), ..request() }, &stored, &all());
    assert_eq!(summaries(&restores), ["pvc/casks=bb", &format!("{DATABASE}=aa")]);
    let (restores, refused) = plan(NamespaceRequest { as_of: Some(at(9)), ..request() }, &stored, &all());
    assert!(restores.is_empty());
    assert_eq!(
        refusals(&refused),
        [(DATABASE, &Refusal::NoneInTime(at(10))), ("pvc/casks", &Refusal::NoneInTime(at(10)))]
    );
}

#[test]
fn sources_that_cannot_be_restored_are_refused_with_the_cause() {
    let stored = [
        casks("ba", 10, &["unproven"]),
        casks("bb", 20, &["incomplete"]),
        stored("ca", 10, HOST, "/data/jars", &["source=pvc/jars"]),
        stored("da", 10, HOST, "/mill.sql", &["source=deployment/gone/vat"]),
        stored("ea", 10, HOST, "/etc", &[]),
        stored("eb", 10, HOST, "/etc", &[]),
        stored("fa", 10, HOST, "/x", &["source=No Name"]),
    ];
    let (restores, refused) = plan(request(), &stored, &all());
    assert!(restores.is_empty());
    assert_eq!(
        refusals(&refused),
        [
            ("/etc", &Refusal::Unnamed(2)),
            ("No Name", &Refusal::Unnamed(1)),
            ("deployment/gone/vat", &Refusal::NoPod),
            (
                "pvc/casks",
                &Refusal::NoneProven { newest: "bb000000".into(), time: at(20), quality: Quality::Incomplete }
            ),
            ("pvc/jars", &Refusal::NoClaim("jars".into())),
        ]
    );
}

#[test]
fn source_without_a_command_that_reads_it_is_refused_before_anything_is_done() {
    let planned = [PlannedSource { has_restore_command: false, ..planned(DATABASE, None) }];
    let stored = [database("aa", 10)];
    let (snapshots, sources): (Vec<_>, _) = (stored.iter().map(snapshot_record).collect(), plan_of(&planned));
    let claims = BTreeSet::new();
    let facts = NamespaceFacts {
        repositories: &only(snapshots),
        is_named: false,
        claims: &claims,
        pods: &[],
        sources: &sources,
    };
    let plan = plan_namespace(request(), facts);
    assert!(plan.restores.is_empty());
    assert_eq!(refusals(&plan.refused), [(DATABASE, &Refusal::NoRestoreCommand)]);
}

#[test]
fn only_missing_claims_are_made_and_only_those_that_are_there_overwritten() {
    let stored = [casks("ba", 10, &[]), stored("ca", 10, HOST, "/data/jars", &["source=pvc/jars"])];
    let create = NewClaim { storage_class_name: Some("oak".into()), ..NewClaim::default() };
    let (restores, refused) =
        plan(NamespaceRequest { create: Some(&create), overwrite: true, ..request() }, &stored, &all());
    assert_eq!(refused, []);
    let claims: Vec<_> = restores.iter().map(|spec| spec.to.as_ref().unwrap().claim.clone().unwrap()).collect();
    // The API server refuses both at once.
    assert_eq!((claims[0].overwrite, &claims[0].create), (true, &None));
    assert_eq!((claims[1].overwrite, &claims[1].create), (false, &Some(create)));
}

#[test]
fn only_volumes_or_commands_are_restored_on_request() {
    let stored = [casks("ba", 10, &[]), database("aa", 10)];
    let volumes = plan(NamespaceRequest { only: Some(SourceKind::Volume), ..request() }, &stored, &There::default());
    assert_eq!(
        (summaries(&volumes.0).len(), refusals(&volumes.1)),
        (0, vec![("pvc/casks", &Refusal::NoClaim("casks".into()))])
    );
    let commands = plan(NamespaceRequest { only: Some(SourceKind::Command), ..request() }, &stored, &all());
    assert_eq!((summaries(&commands.0), commands.1), (vec![format!("{DATABASE}=aa")], vec![]));
}

#[test]
fn commands_of_one_workload_come_back_one_after_the_other() {
    const NAMES: [&str; 4] = ["deployment/press/vat", "deployment/press/mill", "deployment/well/vat", "pvc/casks"];
    let stored: Vec<_> = NAMES.iter().map(|name| stored("aa", 10, HOST, name, &[&format!("source={name}")])).collect();
    let planned = NAMES.map(|name| planned(name, None));
    let (snapshots, sources): (Vec<_>, _) = (stored.iter().map(snapshot_record).collect(), plan_of(&planned));
    let claims = BTreeSet::from(["casks".to_owned()]);
    let facts = NamespaceFacts {
        repositories: &only(snapshots),
        is_named: false,
        claims: &claims,
        pods: &[],
        sources: &sources,
    };
    let plan = plan_namespace(request(), facts);
    let rows = |kind| -> Vec<Vec<String>> {
        let names = |row: Vec<&ChosenSnapshot<'_>>| row.iter().map(|one| one.spec.from.source.to_string()).collect();
        plan.rows(kind).into_iter().map(names).collect()
    };
    assert_eq!(rows(SourceKind::Command), [vec![NAMES[1], NAMES[0]], vec![NAMES[2]]]);
    assert_eq!(rows(SourceKind::Volume), [[NAMES[3]]]);
}

#[test]
fn snapshots_of_k8up_are_used_if_stowaway_has_none() {
    let of_k8up = |id, seconds, path| stored(id, seconds, HOST, path, &[]);
    let stored = [
        of_k8up("aa", 10, "/data/casks"),
        of_k8up("ab", 30, "/data/casks"),
        of_k8up("ba", 30, "/data/sacks"),
        stored("bb", 20, HOST, "/data/sacks", &["source=pvc/sacks"]),
        // A history which Stowaway continues.
        database("ca", 20),
        of_k8up("cb", 10, "/mill-vat.sql"),
    ];
    let (restores, refused) = plan(request(), &stored, &all());
    assert_eq!(summaries(&restores), ["pvc/casks=ab", "pvc/sacks=bb", &format!("{DATABASE}=ca")]);
    assert_eq!(refused, []);
}

#[test]
fn workload_of_one_volume_is_scaled_down_and_of_several_refused() {
    let stored = [
        casks("aa", 10, &[]),
        stored("ba", 10, HOST, "/data/sacks", &["source=pvc/sacks"]),
        stored("ca", 10, HOST, "/data/jars", &["source=pvc/jars"]),
        stored("da", 10, HOST, "/data/tubs", &["source=pvc/tubs"]),
        stored("ea", 10, HOST, "/data/idle", &["source=pvc/idle"]),
    ];
    let set = ("statefulset", "store");
    let there = There {
        claims: vec!["casks", "sacks", "jars", "tubs", "idle"],
        pods: vec![
            pod("press-1", ("deployment", "press"), &["casks"]),
            pod("press-2", ("deployment", "press"), &["casks"]),
            pod("store-0", set, &["sacks"]),
            pod("store-1", set, &["jars"]),
            pod("each", ("daemonset", "each"), &["tubs"]),
        ],
        sources: vec![],
    };
    let (restores, refused) = plan(NamespaceRequest { scale_down: true, ..request() }, &stored, &there);
    assert_eq!(summaries(&restores), ["pvc/casks=aa", "pvc/idle=ea"]);
    assert_eq!(restores[0].scale_down, Some(ScaleDown { kind: ScaledKind::Deployment, name: "press".into() }));
    assert_eq!(restores[1].scale_down, None);
    let shared = Refusal::SharedWorkload("StatefulSet store".into());
    assert_eq!(
        refusals(&refused),
        [("pvc/jars", &shared), ("pvc/sacks", &shared), ("pvc/tubs", &Refusal::NotScalable("daemonset/each".into()))]
    );
    let (restores, refused) = plan(request(), &stored, &there);
    assert!(restores.iter().all(|spec| spec.scale_down.is_none()));
    assert_eq!((restores.len(), refused.len()), (5, 0));
}

fn any_snapshot() -> impl Strategy<Value = Stored> {
    let select = |choices: &'static [&'static str]| proptest::sample::select(choices);
    (
        select(&["pvc/casks", "pvc/jars", DATABASE, "deployment/gone/vat", "No Name", ""]),
        select(&["/data/casks", "/data/jars", "/data/a/b", "/mill-vat.sql", "/etc"]),
        select(&[HOST, "elsewhere"]),
        select(&["", "unproven", "incomplete", "safety"]),
        (0..40_i64, 0..u32::MAX),
    )
        .prop_map(|(source, path, host, mark, (seconds, id))| {
            let source = if source.is_empty() { String::new() } else { format!("source={source}") };
            let tags: Vec<&str> = [source.as_str(), mark].into_iter().filter(|tag| !tag.is_empty()).collect();
            stored(&format!("{id:08x}"), seconds, host, path, &tags)
        })
}

proptest! {
    #[test]
    fn no_source_of_the_snapshots_is_left_out_silently(
        stored in proptest::collection::vec(any_snapshot(), 0..24),
        as_of in proptest::option::of(0..40_i64),
        create in any::<bool>(),
    ) {
        let new = NewClaim::default();
        let request = NamespaceRequest { as_of: as_of.map(at), create: create.then_some(&new), ..request() };
        let (restores, refused) = plan(request, &stored, &all());
        let restored: Vec<&str> = restores.iter().map(|spec| spec.from.source.as_str()).collect();
        let covered: Vec<&str> = refused.iter().map(|one| one.source.as_str()).chain(restored.iter().copied()).collect();
        let of_host: Vec<&Stored> = stored.iter().filter(|one| one.identity.host == HOST).collect();
        let source = |one: &Stored| one.identity.tag("source").map(str::to_owned);
        for one in &of_host {
            let path = one.identity.path.as_str();
            let names = match source(one) {
                Some(name) => vec![name],
                None => {
                    let shared = of_host.iter().filter(|other| other.identity.path == path).filter_map(|other| source(other));
                    let claim = path.strip_prefix("/data/").map(|claim| format!("pvc/{claim}"));
                    shared.chain(claim).chain([path.to_owned()]).collect()
                }
            };
            prop_assert!(names.iter().any(|name| covered.contains(&name.as_str())), "{names:?} of {covered:?}");
        }
        // Each source once, and no source without a snapshot.
        prop_assert_eq!(covered.iter().collect::<BTreeSet<_>>().len(), covered.len(), "{:?}", covered);
        for spec in &restores {
            let chosen = of_host.iter().find(|one| Some(&one.id) == spec.from.snapshot.as_ref()).unwrap();
            prop_assert!(as_of.is_none_or(|limit| chosen.time <= at(limit)));
            let is_good = |one: &Stored| one.identity.tags.len() == 1 && one.identity.tag("source").is_some();
            let of_source = |one: &&&Stored| source(one).as_deref() == Some(spec.from.source.as_str()) && is_good(one);
            let better = of_host.iter().filter(of_source).filter(|one| as_of.is_none_or(|limit| one.time <= at(limit)));
            let newest = better.max_by_key(|one| (one.time, &one.id));
            match newest {
                Some(newest) => prop_assert_eq!(&chosen.id, &newest.id),
                None => prop_assert!(source(chosen).is_none(), "a snapshot of Stowaway that is not good"),
            }
        }
        prop_assert!(restored.is_sorted_by_key(|name| !name.starts_with("pvc/")), "{:?}", restored);
    }
}

#[test]
fn each_source_comes_back_from_the_repository_that_its_pod_names() {
    let named =
        |source: &str, repository: &str| PlannedSource { repository: Some(repository.into()), ..planned(source, None) };
    let planned = [named(DATABASE, "attic"), named("deployment/well/vat", "attic")];
    let well = stored("ac", 30, HOST, "/mill-well.sql", &["source=deployment/well/vat"]);
    let sacks = stored("ba", 10, HOST, "/data/sacks", &["source=pvc/sacks"]);
    // The newer dump of the database is in the Repository which its pod names now.
    let (cellar, attic) = ([database("aa", 10), well, casks("bb", 10, &[])], [database("ab", 20), sacks]);
    let sources = plan_of(&planned);
    assert_eq!(repositories_to_read("cellar", &sources), ["cellar", "attic"]);
    let of = |name: &str, snapshots| RepositorySnapshots { name: name.into(), snapshots, is_unread: false };
    let repositories = [
        of("cellar", cellar.iter().map(snapshot_record).collect()),
        of("attic", attic.iter().map(snapshot_record).collect()),
    ];
    let claims = BTreeSet::from(["casks".to_owned(), "sacks".to_owned()]);
    let facts = |is_named, repositories| NamespaceFacts {
        repositories,
        is_named,
        claims: &claims,
        pods: &[],
        sources: &sources,
    };
    let plan = plan_namespace(request(), facts(false, &repositories[..]));
    let chosen: Vec<(String, String)> = plan
        .restores
        .iter()
        .map(|one| {
            (summaries(std::slice::from_ref(&one.spec)).remove(0), one.spec.repository_ref.clone().unwrap().name)
        })
        .collect();
    let expected = [("pvc/casks=bb", "cellar"), (&format!("{DATABASE}=ab"), "attic")];
    assert_eq!(chosen, expected.map(|(one, repository)| (one.to_owned(), repository.to_owned())));
    assert!(plan.restores[1].note.as_ref().unwrap().contains("Repository attic"));
    let other =
        |expected: &str, found: &str| Refusal::OtherRepository { expected: expected.into(), found: found.into() };
    assert_eq!(
        refusals(&plan.refused),
        [("deployment/well/vat", &other("attic", "cellar")), ("pvc/sacks", &other("cellar", "attic"))]
    );
    // A Repository which the user names is the only one.
    let plan = plan_namespace(request(), facts(true, &repositories[..1]));
    let specs: Vec<RestoreSpec> = plan.restores.into_iter().map(|one| one.spec).collect();
    assert_eq!(summaries(&specs), ["pvc/casks=bb", &format!("{DATABASE}=aa"), "deployment/well/vat=ac"]);
}

#[test]
fn repository_that_cannot_be_read_costs_its_own_sources_alone() {
    let named =
        |source: &str, repository: &str| PlannedSource { repository: Some(repository.into()), ..planned(source, None) };
    let sources = plan_of(&[named(DATABASE, "attic"), named("deployment/well/vat", "attic")]);
    // The default Repository has an older dump of the database, which must not be taken for the newest.
    let cellar = [database("aa", 10), casks("bb", 10, &[])];
    let of = |name: &str, snapshots, is_unread| RepositorySnapshots { name: name.into(), snapshots, is_unread };
    let read = of("cellar", cellar.iter().map(snapshot_record).collect(), false);
    let claims = BTreeSet::from(["casks".to_owned()]);
    let facts =
        |repositories| NamespaceFacts { repositories, is_named: false, claims: &claims, pods: &[], sources: &sources };
    let repositories = [read.clone(), of("attic", Vec::new(), true)];
    let plan = plan_namespace(request(), facts(&repositories[..]));
    let specs: Vec<RestoreSpec> = plan.restores.into_iter().map(|one| one.spec).collect();
    assert_eq!(summaries(&specs), ["pvc/casks=bb"]);
    let unread = |name: &str| Refusal::UnreadRepository(name.into());
    assert_eq!(refusals(&plan.refused), [(DATABASE, &unread("attic")), ("deployment/well/vat", &unread("attic"))]);
    // The same if the default one cannot be read, and another one has snapshots of its sources.
    let repositories = [of("granary", Vec::new(), true), read];
    let plan = plan_namespace(request(), facts(&repositories[..]));
    assert!(plan.restores.is_empty());
    assert!(refusals(&plan.refused).contains(&("pvc/casks", &unread("granary"))), "{:?}", plan.refused);
    // The sources of a kind that was not requested are not reported.
    let volumes = NamespaceRequest { only: Some(SourceKind::Volume), ..request() };
    assert_eq!(
        refusals(&plan_namespace(volumes, facts(&repositories[..])).refused),
        [("pvc/casks", &unread("granary"))]
    );
}
