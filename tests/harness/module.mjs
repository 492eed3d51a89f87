// Imports a module that has no imports, runs a program with it and prints the result: { source, program } on stdin.
let text = "";
for await (const chunk of process.stdin) text += chunk;
const { source, program } = JSON.parse(text);
const module = await import(`data:text/javascript;base64,${Buffer.from(source).toString("base64")}`);
const result = await new Function("module", `"use strict"; return (async () => { ${program} })();`)(module);
process.stdout.write(JSON.stringify(result));
