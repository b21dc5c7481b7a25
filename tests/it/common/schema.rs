//! The part of JSON Schema that docs/messages.schema.json uses. An unknown keyword fails the test,
//! so that the whole schema is checked. (A crate for all of JSON Schema brings 26 others;
//! tests/embedding.sh uses Python's validator on the same schema.)

use serde_json::Value;

/// Fails unless `value` follows the schema and every key of it is described there.
pub fn check(schema: &Value, value: &Value) {
    verify(schema, value).unwrap_or_else(|why| panic!("{why}: {value}"));
}

/// The error of [`check`], if any.
pub fn verify(schema: &Value, value: &Value) -> Result<(), String> {
    let keys = value.as_object().ok_or("no object")?.keys();
    let described = of(schema, schema, value)?;
    match keys.into_iter().find(|key| !described.contains(*key)) {
        Some(key) => Err(format!("{key} is not in the schema")),
        None => Ok(()),
    }
}

/// The keys of `value` that the schema describes, or what is wrong.
fn of(root: &Value, schema: &Value, value: &Value) -> Result<Vec<String>, String> {
    let mut described = Vec::new();
    for (keyword, wanted) in schema.as_object().unwrap() {
        let fits = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let path = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                described.extend(of(root, root.pointer(path).unwrap(), value)?);
                true
            }
            "allOf" => {
                for part in wanted.as_array().unwrap() {
                    described.extend(of(root, part, value)?);
                }
                true
            }
            "oneOf" => {
                let parts = wanted.as_array().unwrap().iter();
                let results: Vec<_> = parts.map(|part| of(root, part, value)).collect();
                let fitting: Vec<_> = results.iter().flatten().collect();
                let [only] = fitting[..] else {
                    return Err(format!("{} of these fit: {results:?}", fitting.len()));
                };
                described.extend_from_slice(only);
                true
            }
            "properties" => {
                for (key, part) in wanted.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        of(root, part, value).map_err(|why| format!("{key}: {why}"))?;
                        described.push(key.clone());
                    }
                }
                true
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    of(root, wanted, item)?;
                }
                true
            }
            "type" => match wanted.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_u64() || value.is_i64(),
                other => panic!("unknown type {other}"),
            },
            "required" => {
                let names = wanted.as_array().unwrap().iter();
                let missing = names.filter(|name| value.get(name.as_str().unwrap()).is_none());
                let missing: Vec<_> = missing.collect();
                if !missing.is_empty() {
                    return Err(format!("without {missing:?}"));
                }
                true
            }
            "const" => value == wanted,
            "enum" => wanted.as_array().unwrap().contains(value),
            "minimum" => value.as_u64() >= wanted.as_u64(),
            "minItems" => value.as_array().unwrap().len() as u64 >= wanted.as_u64().unwrap(),
            "maxItems" => value.as_array().unwrap().len() as u64 <= wanted.as_u64().unwrap(),
            other => panic!("a keyword that this test does not know: {other}"),
        };
        if !fits {
            return Err(format!("{value} is not {keyword} {wanted}"));
        }
    }
    Ok(described)
}
