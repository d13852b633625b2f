use super::*;

#[test]
#[ignore = "scratch"]
fn scratch() {
    let list = std::fs::read_to_string(std::env::var("SCRATCH_LIST").unwrap()).unwrap();
    let mut out = String::new();
    for line in list.lines() {
        let (kind, path) = line.split_once('\t').unwrap();
        let bytes = std::fs::read(path).unwrap();
        let options = match kind {
            "json" => json(),
            "xml" => xml(),
            "csv" => csv(),
            _ => json_lines(),
        };
        let outcome = decode(options.clone(), &bytes);
        let split = decode_chunks(options, bytes.chunks(1));
        let cut = if split == outcome { "" } else { "CUT" };
        let bad = outcome.bad().len();
        let end = match &outcome.end {
            Ok(stats) => format!("OK {} {bad}", stats.rows),
            Err((reason, _, at, problem)) => format!("ERR {reason} {at} {problem}"),
        };
        out.push_str(&format!("{path}\t{cut}{}\n", end.replace('\n', " ")));
    }
    std::fs::write(std::env::var("SCRATCH_OUT").unwrap(), out).unwrap();
}
