// What ajv, by which many editors and pipelines judge, makes of a schema: compiled in its strictest mode, it judges documents.
// On stdin {"schema": {…}, "documents": […]}; on stdout [true, false, …], or what it has against the schema on stderr.
const Ajv = require(process.argv[2] + "/node_modules/ajv");
const asked = JSON.parse(require("fs").readFileSync(0));
try {
  const holds = new Ajv({ strict: true, allErrors: true }).compile(asked.schema);
  process.stdout.write(JSON.stringify(asked.documents.map((d) => holds(d))));
} catch (e) {
  process.stderr.write(e.message);
  process.exitCode = 1;
}
