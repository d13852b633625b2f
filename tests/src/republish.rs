//! A republisher between a shop and a partner, killed again and again: the partner's table is the filtered source.

use std::{collections::BTreeSet, path::Path, process::Stdio, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use url::Url;
use waybill_azure::Secret;
use waybill_contracts::Entities;
use waybill_formats::Field;
use waybill_local::{
    Local,
    config::{Config, Ports, TenantConfig},
};
use waybill_publisher::outbox::SqliteOutbox;
use waybill_subscriber::{
    Subscriber,
    grants::Credential,
    inbox::{SqliteInbox, SqliteInboxOptions},
    sink::SqliteSink,
};

use crate::harness::{PATIENCE, Publishing, Subscribing, World, binary, number, query};

/// Files, each with so many changes of so many items.
const FILES: u64 = 35;
const CHANGES: u64 = 400;
const ITEMS: u64 = 150;
const KILLS: u64 = 6;

fn entity(blob_type: &str, filter: &str) -> String {
    format!(
        "[entity.item]\ntypes = [\"{blob_type}\"]\nkey = [\"ItemID\"]\nversion = {{ field = \"Version\", type = \"integer\" }}\n\
         {filter}\ncolumns = {{ ItemID = \"integer\", Price = \"decimal\", Name = \"text\" }}\n"
    )
}

const FILTER: &str = "where = \"row.Price > 10.0\"";

/// Changes of items whose prices go over the limit and below it, and of some that are deleted; no two have one version.
async fn publish(publishing: &Publishing, file: u64, random: &mut StdRng) {
    let export = publishing.publisher.export("ItemChanges").expect("a good type");
    let mut writer = export.id(&format!("file-{file}")).expect("a good id").start().await.expect("the export begins");
    for change in 0..CHANGES {
        let version = (file * CHANGES + change).to_string();
        let item = random.random_range(0..ITEMS).to_string();
        let price = format!("{}.{:02}", random.random_range(5..16_u32), random.random_range(0..100_u32));
        let is_deletion = random.random_range(0..10_u32) == 0;
        let row = [
            ("ItemID", Field::Number(&item)),
            ("Version", Field::Number(&version)),
            ("Price", if is_deletion { Field::Missing } else { Field::Number(&price) }),
            ("Name", Field::Text(format!("item {item}").into())),
            ("Secret", Field::Text(format!("secret {version}").into())),
            ("_deleted", if is_deletion { Field::Bool(true) } else { Field::Missing }),
        ];
        writer.row(&row).await.expect("the row is written");
    }
    writer.finish().await.expect("the export is durable");
    publishing.sent().await;
}

fn start(folder: &Path, ready: &Path, until_idle: bool) -> Child {
    let mut run = Command::new(binary("waybill-republish"));
    run.arg("run").arg("--local").arg(ready).current_dir(folder);
    if until_idle {
        // Longer than a lock: a message that a kill left locked comes again before the run is over.
        run.args(["--until-idle", "3"]);
    }
    // A killed one's files come again soon, and small requests are more moments at which a kill can do harm.
    run.env("WAYBILL_SUBSCRIBER__LEASE_MS", "1000").env("WAYBILL_SUBSCRIBER__RANGE_BYTES", "4096");
    run.env("WAYBILL_REPUBLISH__FILES_IN_FLIGHT_MAX", "2");
    run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    run.spawn().expect("the republisher starts")
}

/// Exports that are durable; none while there is no outbox.
fn durable(outbox: &Path) -> u64 {
    if !outbox.exists() || query(outbox, "SELECT 1 FROM sqlite_schema WHERE name = 'export'").is_empty() {
        return 0;
    }
    let count = query(outbox, "SELECT count(*) FROM export WHERE state IN ('uploaded', 'sent')");
    count[0].parse().expect("a number")
}

/// A third party with a database of its own.
async fn third_party(world: &World, tenant: &str, blob_type: &str, filter: &str) -> Subscribing {
    let ready = world.local.ready_file();
    let token = &ready.tenants.iter().find(|known| known.name == tenant).expect("the tenant is there").bearer_token;
    let inbox = SqliteInbox::open(&world.path(&format!("{tenant}-inbox.sqlite")), SqliteInboxOptions::default()).await;
    let entities = Entities::parse(&entity(blob_type, filter), "entities.toml").expect("sound entities");
    let options = Subscriber::builder().entities(entities.clone()).types([blob_type.to_owned()]);
    let url = Url::parse(&ready.tenant_url).expect("an address");
    let subscriber = options.with_tenant(inbox.expect("an inbox"), &url, Credential::Bearer(Secret::new(token)));
    let sink = SqliteSink::open(world.path(&format!("{tenant}.sqlite")), &entities).await.expect("the sink opens");
    Subscribing::start(subscriber.expect("a subscriber"), sink)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partners_table_is_the_filtered_source_though_the_republisher_is_killed_at_random_moments() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let tenants = ["feed", "partner", "source"].map(TenantConfig::named).to_vec();
    let config = Config { tenants, ..Config::default() };
    let local = Local::builder().config(config).ports(Ports::RANDOM);
    let world = World::of(local.lock_duration(Duration::from_secs(2)).max_delivery_count(number(20))).await;
    let (ready, folder) = (world.ready_file(), world.path("feed"));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("entities.toml"), entity("ItemChanges", "")).expect("it is written");
    let settings = format!(
        "[subscriber]\nentities = \"entities.toml\"\n[publisher]\nname = \"feed\"\n[republish.types.PublicItems]\n\
         from = [\"ItemChanges\"]\n{FILTER}\nfields = [\"ItemID\", \"Version\", \"Price\", \"Name\"]\n"
    );
    std::fs::write(folder.join("waybill.toml"), settings).expect("it is written");
    let publishing = world.publisher().await;

    let outbox = folder.join(".waybill/republish").join(SqliteOutbox::FILE);
    // Before each start some more is published, so that every run has something to receive and to work.
    let (mut files, mut published, mut hit_at_work) = (0..FILES, 0, 0);
    for kill in 0..KILLS {
        for file in files.by_ref().take(usize::try_from(FILES / (KILLS + 1)).expect("few")) {
            publish(&publishing, file, &mut random).await;
            published += 1;
        }
        let before = durable(&outbox);
        let mut child = start(&folder, &ready, false);
        if kill % 3 > 0 {
            // When it works; else wherever it is, perhaps still starting.
            let end = Instant::now() + PATIENCE;
            while durable(&outbox) == before && before < published {
                assert!(Instant::now() < end, "the republisher does not work");
                sleep(Duration::from_millis(2)).await;
            }
            sleep(Duration::from_millis(random.random_range(0..40))).await;
        } else {
            sleep(Duration::from_millis(random.random_range(50..600))).await;
        }
        assert!(child.try_wait().expect("a child").is_none(), "kill {kill}: the republisher ended by itself");
        child.kill().await.expect("the child is killed");
        let after = durable(&outbox);
        hit_at_work += u32::from(before < after && after < published);
        println!("kill {kill}: {before} to {after} of {published} files");
    }
    assert!(hit_at_work > 0, "no kill of {KILLS} hit it in the middle of its work; seed {seed}");
    for file in files {
        publish(&publishing, file, &mut random).await;
    }
    let output = timeout(PATIENCE, start(&folder, &ready, true).wait_with_output()).await.expect("it ends in time");
    let output = output.expect("it ran");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {told}", output.status);

    // Each file became one other, and nothing else did.
    let sent = query(&outbox, "SELECT causation_id FROM export WHERE state = 'sent' AND blob_type = 'PublicItems'");
    let causes: BTreeSet<String> = sent.iter().cloned().collect();
    let wanted: BTreeSet<String> = (0..FILES).map(|file| format!("file-{file}")).collect();
    assert_eq!((sent.len() as u64, &causes), (FILES, &wanted), "seed {seed}: {told}");

    let (partner, source) = (
        third_party(&world, "partner", "PublicItems", "").await,
        third_party(&world, "source", "ItemChanges", FILTER).await,
    );
    partner.done(FILES).await;
    source.done(FILES).await;
    let table = |tenant: &str| {
        let sql = "SELECT ItemID, Version, Price, Name FROM item ORDER BY ItemID";
        query(&world.path(&format!("{tenant}.sqlite")), sql)
    };
    let (of_partner, of_source) = (table("partner"), table("source"));
    assert!((of_source.len() as u64) < ITEMS && of_source.len() > 20, "seed {seed}: {} rows", of_source.len());
    assert_eq!(of_partner, of_source, "seed {seed}: {told}");
    let columns = query(&world.path("partner.sqlite"), "SELECT name FROM pragma_table_info('item')");
    assert!(!columns.iter().any(|name| name == "Secret"), "{columns:?}");

    partner.end().await;
    source.end().await;
    publishing.end().await;
    world.end().await;
}
