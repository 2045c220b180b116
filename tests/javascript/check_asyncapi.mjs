/** `node check_asyncapi.mjs FILE...`: what the schema of AsyncAPI finds in documents, as JSON. */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { Ajv } from "ajv";

const schema = createRequire(import.meta.url)("@asyncapi/specs/schemas/3.0.0.json");
// It holds the meta schema of draft 7 itself.
const ajv = new Ajv({ strict: false, meta: false, validateSchema: false, validateFormats: false });
const isValid = ajv.compile(schema);
const found = process.argv.slice(2).map((name) => {
  isValid(JSON.parse(readFileSync(name, "utf8")));
  return isValid.errors ?? [];
});
console.log(JSON.stringify(found));
