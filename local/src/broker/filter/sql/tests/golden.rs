//! Examples from Microsoft's pages "Subscription Rule SQL Filter Syntax", "Set subscription filters" and "Topic filters and
//! actions", against messages.

use super::{Draft, FALSE, TRUE, Truth, UNKNOWN, draft, evaluate};

/// An order as the sample of "Set subscription filters" sends it.
fn order(color: &str, quantity: i32, priority: &str) -> Draft {
    let properties = draft().text("color", color).int("quantity", quantity).text("priority", priority);
    properties.label(color).field(5, priority)
}

fn check(table: &[(&str, &Draft, Truth)]) {
    for (expression, message, truth) in table {
        assert_eq!(evaluate(expression, message), Ok(*truth), "{expression} on {message:?}");
    }
}

#[test]
fn system_properties_and_patterns() {
    let (bus, tram) = (draft().label("a bus stop"), draft().label("a tram stop"));
    let tagged = draft().label("a tram").text("tag", "topic");
    let ids = draft().field(0, "xxxx").field(5, "abc-123");
    check(&[
        ("sys.Label LIKE '%bus%'", &bus, TRUE),
        ("sys.label LIKE '%bus%'", &tram, FALSE),
        ("sys.Label LIKE '%bus%'", &draft(), UNKNOWN),
        ("sys.Label LIKE '%BUS%'", &bus, FALSE),
        ("sys.messageid = 'xxxx'", &ids, TRUE),
        ("sys.correlationid like 'abc-%'", &ids, TRUE),
        ("sys.Label LIKE '%bus%' OR user.tag IN ('queue', 'topic', 'subscription')", &tagged, TRUE),
        ("sys.Label LIKE '%bus%' OR user.tag IN ('queue', 'topic', 'subscription')", &tram, UNKNOWN),
        ("user.SuperHero like 'SuperMan%'", &draft().text("superhero", "SuperManX"), TRUE),
        ("MessageProperty = 'A'", &draft().text("MessageProperty", "A"), TRUE),
        ("MessageProperty = 'A'", &draft().text("MessageProperty", "a"), FALSE),
    ]);
}

#[test]
fn the_escape_character_makes_a_wildcard_literal() {
    let (percent, longer) = (draft().text("property", "ABC%"), draft().text("property", "ABCD"));
    check(&[
        (r"[property] LIKE 'ABC\%' ESCAPE '\'", &percent, TRUE),
        (r"[property] LIKE 'ABC\%' ESCAPE '\'", &longer, FALSE),
        ("property LIKE 'ABC%'", &longer, TRUE),
        ("property LIKE 'ABC_'", &longer, TRUE),
        ("property NOT LIKE 'ABC_'", &longer, FALSE),
        ("property NOT LIKE '_'", &longer, TRUE),
    ]);
}

#[test]
fn in_and_not_in() {
    let first = draft().text("StoreId", "Store1").field(2, "Store9");
    let eighth = draft().text("StoreId", "Store8");
    let not_in = "sys.To NOT IN ('Store1','Store2','Store3','Store4','Store5','Store6','Store7','Store8') OR StoreId NOT IN \
                  ('Store1','Store2','Store3','Store4','Store5','Store6','Store7','Store8')";
    check(&[
        ("StoreId IN('Store1', 'Store2', 'Store3')", &first, TRUE),
        ("StoreId IN('Store1', 'Store2', 'Store3')", &eighth, FALSE),
        ("StoreId IN('Store1', 'Store2', 'Store3')", &draft(), UNKNOWN),
        ("sys.To IN ('Store5','Store6','Store7') OR StoreId = 'Store8'", &eighth, TRUE),
        ("sys.To IN ('Store5','Store6','Store7') OR StoreId = 'Store8'", &first, FALSE),
        (not_in, &first, TRUE),
        (not_in, &eighth, UNKNOWN),
    ]);
}

#[test]
fn orders_of_the_sample() {
    let (blue, red, few) = (order("blue", 10, "low"), order("red", 10, "high"), order("blue", 5, "low"));
    check(&[
        ("color='blue' AND quantity=10", &blue, TRUE),
        ("color='blue' AND quantity=10", &red, FALSE),
        ("color='blue' AND quantity=10", &few, FALSE),
        ("user.color='red'", &red, TRUE),
        ("Color = 'blue' or Quantity = 10", &red, TRUE),
        ("sys.ReplyTo = 'johndoe@contoso.com' AND sys.Label = 'Important' AND color = 'Red'", &red, FALSE),
        ("1=1", &red, TRUE),
        ("1=0", &red, FALSE),
    ]);
}

#[test]
fn numbers_are_promoted() {
    let one = draft().int("MessageProperty", 1).int("MessageProperty2", 3);
    let more = draft().double("MessageProperty", 2.5);
    let large = draft().raw("n", |out| {
        out.push(0x80);
        out.extend(u64::MAX.to_be_bytes());
    });
    check(&[
        ("MessageProperty = 1", &one, TRUE),
        ("MessageProperty > 1", &one, FALSE),
        ("MessageProperty > 1", &more, TRUE),
        ("MessageProperty > 2.08", &more, TRUE),
        ("MessageProperty > 2.08", &one, FALSE),
        ("MessageProperty = 1 AND MessageProperty2 = 3", &one, TRUE),
        ("MessageProperty = 1 AND MessageProperty2 = 3", &more, FALSE),
        ("MessageProperty = 1 OR MessageProperty2 = 3", &more, UNKNOWN),
        ("MessageProperty = 1.0", &one, TRUE),
        ("101.5E5 = 10150000 AND 0.5E-2 = 0.005 AND 1894.1204 > 1894", &one, TRUE),
        ("5 / 2 = 2 AND 5.0 / 2 = 2.5 AND -5 / 2 = -2 AND -5 % 3 = -2", &one, TRUE),
        ("2 + 3 * 4 = 14 AND (2 + 3) * 4 = 20 AND 10 - 4 - 3 = 3 AND 100 / 10 / 5 = 2", &one, TRUE),
        ("- -MessageProperty = +1 AND -MessageProperty2 = 0-3", &one, TRUE),
        ("9223372036854775807 + 2 < 0 AND 1.0 / 0 > 9223372036854775807", &one, FALSE),
        ("-9223372036854775807 - 2 > 0", &one, TRUE),
        ("n > 9223372036854775807", &large, TRUE),
        ("'a' + 'b' = 'ab'", &one, TRUE),
        ("b = TRUE AND b <> false", &draft().bool("b", true), TRUE),
    ]);
}

#[test]
fn names_may_be_delimited() {
    let claims = "http://schemas.microsoft.com/xrm/2011/Claims/EntityLogicalName";
    let crm = draft().text(claims, "account");
    check(&[
        (&format!("\"{claims}\" = 'account'"), &crm, TRUE),
        (&format!("user.[{claims}] = 'account'"), &crm, TRUE),
        (&format!("p('{claims}') = 'account'"), &crm, TRUE),
        ("[Property With Space] = 1", &draft().int("property with space", 1), TRUE),
        ("[HR-EmployeeID] = 1", &draft().int("HR-EmployeeID", 1), TRUE),
        ("\"Contoso & Northwind\" = 1", &draft().int("Contoso & Northwind", 1), TRUE),
        ("[a]]b] = 1 AND \"c\"\"d\" = 2", &draft().int("a]b", 1).int("c\"d", 2), TRUE),
        ("[and] = 1 AND [sys.Label] = 2", &draft().int("AND", 1).int("sys.Label", 2), TRUE),
        ("name = 'O''Brien'", &draft().text("name", "O'Brien"), TRUE),
        ("größe_2 = 1", &draft().int("GRÖSSE_2", 1).int("Größe_2", 1), TRUE),
        ("p = 1 AND property = 2 AND newid = 3", &draft().int("p", 1).int("property", 2).int("newid", 3), TRUE),
    ]);
}

#[test]
fn not_binds_tighter_than_and_and_that_tighter_than_or() {
    let message = draft().int("a", 1);
    check(&[
        ("a = 1 OR a = 2 AND a = 3", &message, TRUE),
        ("(a = 1 OR a = 2) AND a = 3", &message, FALSE),
        ("NOT a = 1 OR a = 1", &message, TRUE),
        ("NOT (a = 1 OR a = 1)", &message, FALSE),
        ("not not a = 1", &message, TRUE),
        ("NOT a IN (2) AND NOT a IS NULL AND NOT EXISTS(b)", &message, TRUE),
        ("((a)) = (1) AND ((a + 1) > (1))", &message, TRUE),
    ]);
}
