//! Chosen fields of messages.

use super::*;

#[track_caller]
fn project(fields: &str, payload: &[u8]) -> (FormatResult, Vec<Result<String, Observation>>) {
    let fields: Fields = fields.parse().expect("fields");
    let mut found = Vec::new();
    let message = Message {
        key: Some(b"10.0.0.1 10.0.0.2"),
        payload: Some(payload),
        timestamp_ms: Some(BROKER_MS),
    };
    let format = fields.project(&Decoder::default(), &message, &mut |read, object| {
        found.push(match read {
            Observation::Record(_) | Observation::WithoutPackets(_) => {
                Ok(String::from_utf8(object.to_vec()).expect("text"))
            }
            other => {
                assert!(object.is_empty());
                Err(other)
            }
        });
    });
    (format, found)
}

const FLOW: &str = r#"{"event_type": "purge", "ip_src": "10.0.0.1", "ip_dst": "10.0.0.2", "tos": 0, "x\u0079": [ 1, {"a":"b"} ], "packets": 2, "bytes": 1.930E+2, "timestamp_end": "2018-03-26 05:40:36.992000", "label": "\u00e9 \"q\""}"#;

#[test]
fn chosen_values_are_kept_byte_for_byte() {
    let one = |fields, object: &str| {
        let quoted = serde_json::to_string(FLOW).expect("a text");
        for payload in [
            FLOW.to_owned(),
            format!("[ {FLOW} ]"),
            format!("{{\"schema\":{{}},\"payload\":{FLOW}}}"),
            format!("{{\"payload\":{quoted}}}"),
            quoted,
        ] {
            let expected = (Ok(Some(Format::Pmacct)), vec![Ok(object.to_owned())]);
            assert_eq!(project(fields, payload.as_bytes()), expected, "{payload}");
        }
    };
    one("bytes", r#"{"bytes":1.930E+2}"#);
    one("bytes,ip_src", r#"{"bytes":1.930E+2,"ip_src":"10.0.0.1"}"#);
    one(
        " ip_src , xy,label",
        r#"{"ip_src":"10.0.0.1","xy":[ 1, {"a":"b"} ],"label":"\u00e9 \"q\""}"#,
    );
    // A field that the object lacks is left out.
    one("port_src,tos", r#"{"tos":0}"#);
}

#[test]
fn message_that_is_no_json_has_the_fields_of_floodmarks_own_format() {
    let object = r#"{"bytes":66,"time":"2023-11-14T22:13:20.5Z"}"#;
    let mut packer = Packer::new();
    packer.push(&record(BROKER_MS, "10.0.0.1", "10.0.0.2", 66, 1)).expect("a volume");
    let packed = packer.take().expect("a record").payload;
    let line = "1 0.1 10.0.0.1 → 10.0.0.2 TCP 66 1 → 2";
    for (payload, format) in [
        (&packed[..], Format::Packed),
        (b"66", Format::Kv),
        (line.as_bytes(), Format::TsharkText),
        (format!("{{\"payload\":\"{line}\"}}").as_bytes(), Format::TsharkText),
    ] {
        let expected = (Ok(Some(format)), vec![Ok(object.to_owned())]);
        assert_eq!(project("bytes,time", payload), expected);
    }
}

#[test]
fn observation_without_a_record_has_no_fields() {
    let mark = r#"{"event_type":"purge_init","writer_id":"x"}"#;
    let broken = r#"{"ip_src":"10.0.0.1","bytes":1}"#;
    let missing = |field| Err(Observation::Bad(RecordError::MissingField { field }));
    let payload = format!("{mark}\n[{FLOW},7]\n{broken}\n{{\n{FLOW}");
    let (format, found) = project("tos", payload.as_bytes());
    assert_eq!(format, Ok(Some(Format::Pmacct)));
    let tos = || Ok("{\"tos\":0}".to_owned());
    assert_eq!(
        found,
        [
            Err(Observation::Skipped(Skip::Purge)),
            tos(),
            Err(Observation::Bad(RecordError::UnknownFormat)),
            missing("ip_dst"),
            Err(Observation::Bad(RecordError::Json)),
            tos(),
        ]
    );
    assert_eq!(project("tos", b"{}"), (Err(RecordError::UnknownFormat), vec![]));
    // None of the chosen fields is there: empty objects must not hide a mistyped name.
    let (_, found) = project("byte", FLOW.as_bytes());
    assert_eq!(found, [missing("any of the chosen ones")]);
}

#[test]
fn empty_or_repeated_field_name_is_rejected() {
    for text in ["", " ", "a,,b", "a,", ",a"] {
        assert_eq!(text.parse::<Fields>(), Err(FieldsError::Empty { text: text.into() }));
    }
    let twice = "a,b, a".parse::<Fields>();
    assert_eq!(twice, Err(FieldsError::Twice { name: "a".into() }));
}
