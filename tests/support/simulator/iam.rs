//! Policies of IAM as people write them, in JSON: as much of the language as the policies of a reader
//! need. Everything else is refused loudly, so that no test believes in a condition that is ignored.

use serde_json::Value;

/// A policy document. What it does not allow is denied.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    statements: Vec<Statement>,
}

#[derive(Clone, Debug)]
struct Statement {
    allows: bool,
    /// Patterns with `*` and `?`; actions are compared without regard to case.
    actions: Vec<String>,
    resources: Vec<String>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug)]
struct Condition {
    operator: Operator,
    key: String,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
enum Operator {
    StringEquals,
    StringLike,
    /// The key is absent, or present with `false`.
    Null,
}

/// What is asked for, in the words of IAM.
pub(crate) struct Question<'a> {
    pub(crate) action: &'a str,
    pub(crate) resource: &'a str,
    /// The condition keys that the request has.
    pub(crate) context: &'a [(&'a str, &'a str)],
}

impl Document {
    pub(crate) fn parse(json: &str) -> Result<Self, String> {
        Self::of(&serde_json::from_str(json).map_err(|err| err.to_string())?)
    }

    pub(crate) fn of(document: &Value) -> Result<Self, String> {
        known(document, &["Version", "Id", "Statement"])?;
        if document["Version"] != "2012-10-17" {
            return Err("Version is 2012-10-17".to_owned());
        }
        let statements = match &document["Statement"] {
            Value::Array(statements) => statements.iter().map(Statement::of).collect(),
            one => Statement::of(one).map(|statement| vec![statement]),
        };
        Ok(Self { statements: statements? })
    }

    /// A denial counts more than any permission.
    pub(crate) fn allows(&self, question: &Question<'_>) -> bool {
        let matching = || self.statements.iter().filter(|statement| statement.covers(question));
        matching().any(|statement| statement.allows) && matching().all(|statement| statement.allows)
    }
}

impl Statement {
    fn of(value: &Value) -> Result<Self, String> {
        known(value, &["Sid", "Effect", "Action", "Resource", "Condition"])?;
        let allows = match value["Effect"].as_str() {
            Some("Allow") => true,
            Some("Deny") => false,
            other => return Err(format!("no Effect: {other:?}")),
        };
        let mut conditions = Vec::new();
        for (operator, keys) in value["Condition"].as_object().into_iter().flatten() {
            let operator = match operator.as_str() {
                "StringEquals" => Operator::StringEquals,
                "StringLike" => Operator::StringLike,
                "Null" => Operator::Null,
                other => return Err(format!("the operator {other} is not known here")),
            };
            for (key, values) in keys.as_object().ok_or("a condition is an object")? {
                conditions.push(Condition { operator, key: key.clone(), values: texts(values)? });
            }
        }
        let (actions, resources) = (texts(&value["Action"])?, texts(&value["Resource"])?);
        Ok(Self { allows, actions, resources, conditions })
    }

    fn covers(&self, question: &Question<'_>) -> bool {
        let action = question.action.to_ascii_lowercase();
        self.actions.iter().any(|pattern| is_like(&pattern.to_ascii_lowercase(), &action))
            && self.resources.iter().any(|pattern| is_like(pattern, question.resource))
            && self.conditions.iter().all(|condition| condition.holds(question.context))
    }
}

impl Condition {
    /// All but `Null` are false where the request does not have the key.
    fn holds(&self, context: &[(&str, &str)]) -> bool {
        let value = context.iter().find(|(key, _)| *key == self.key).map(|(_, value)| *value);
        match self.operator {
            Operator::Null => self.values.iter().any(|text| (text == "true") == value.is_none()),
            Operator::StringEquals => {
                value.is_some_and(|value| self.values.iter().any(|text| text == value))
            }
            Operator::StringLike => {
                value.is_some_and(|value| self.values.iter().any(|text| is_like(text, value)))
            }
        }
    }
}

fn known(object: &Value, names: &[&str]) -> Result<(), String> {
    let object = object.as_object().ok_or("an object was expected")?;
    match object.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(format!("{name} is not known here")),
        None => Ok(()),
    }
}

/// One text or a list of them.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(format!("no text: {value}"));
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

/// `*` is any text, `?` any one character.
fn is_like(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            let mut places = text.char_indices().map(|(place, _)| place);
            places.any(|place| is_like(rest, &text[place..])) || is_like(rest, "")
        }
        Some(first) => {
            let mut characters = text.chars();
            let found = characters.next();
            (found == Some(first) || first == '?' && found.is_some())
                && is_like(&pattern[first.len_utf8()..], characters.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_iam() {
        for (pattern, text, is) in [
            ("*", "", true),
            ("data/*", "data/", true),
            ("data/*", "data", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b*d", "abcd", true),
            ("*b*d", "abce", false),
            ("a*", "\u{e9}", false),
        ] {
            assert_eq!(is_like(pattern, text), is, "{pattern} {text}");
        }
    }

    #[test]
    fn a_denial_wins_and_a_condition_without_its_key_is_false() {
        let document = Document::parse(
            r#"{ "Version": "2012-10-17", "Statement": [
                { "Effect": "Allow", "Action": "s3:List*", "Resource": "arn:aws:s3:::b",
                  "Condition": { "StringLike": { "s3:prefix": ["a/*", "b/*"] } } },
                { "Effect": "Deny", "Action": ["S3:LISTBUCKET"], "Resource": "*",
                  "Condition": { "StringEquals": { "s3:prefix": "a/secret/" } } }] }"#,
        )
        .unwrap();
        let allows = |context: &[(&str, &str)]| {
            let (action, resource) = ("s3:ListBucket", "arn:aws:s3:::b");
            document.allows(&Question { action, resource, context })
        };
        assert!(allows(&[("s3:prefix", "a/x/")]) && allows(&[("s3:prefix", "b/")]));
        assert!(!allows(&[("s3:prefix", "c/")]) && !allows(&[]));
        assert!(!allows(&[("s3:prefix", "a/secret/")]));
    }

    #[test]
    fn what_is_not_evaluated_is_refused() {
        for statement in [
            r#"{ "Effect": "Allow", "Action": "*", "NotResource": "*" }"#,
            r#"{ "Effect": "Allow", "Action": "*", "Resource": "*",
                 "Condition": { "IpAddress": { "aws:SourceIp": "10.0.0.0/8" } } }"#,
        ] {
            let json = format!(r#"{{ "Version": "2012-10-17", "Statement": [{statement}] }}"#);
            assert!(Document::parse(&json).is_err(), "{statement}");
        }
    }
}
