// Validates an AsyncAPI document against the specification's own JSON schema, and its examples against their payload
// schemas. Usage: node asyncapi.mjs FILE. Prints what is wrong as a JSON list; exit status 1 if anything is.
import { readFileSync } from "node:fs";
import Ajv from "ajv";
import specs from "@asyncapi/specs";

const document = JSON.parse(readFileSync(process.argv[2], "utf8"));
const wrong = [];

const official = new Ajv({ strict: false, validateFormats: false, allErrors: true });
const isValid = official.compile(specs.schemasWithoutId["3.0.0"]);
if (!isValid(document)) wrong.push(...isValid.errors.map((error) => `${error.instancePath}: ${error.message}`));

const payloads = new Ajv({ strict: false, allErrors: true });
payloads.addSchema(document, "document");
let checked = 0;
for (const [name, message] of Object.entries(document.components.messages)) {
  const validate = payloads.compile({ $ref: `document${message.payload.$ref}` });
  for (const example of message.examples) {
    checked += 1;
    if (!validate(example.payload)) {
      wrong.push(...validate.errors.map((error) => `${name}, ${example.name}: ${error.instancePath} ${error.message}`));
    }
  }
}
if (checked === 0) wrong.push("there is no example");

console.log(JSON.stringify(wrong));
process.exit(wrong.length ? 1 : 0);
