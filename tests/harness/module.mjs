// Calls an export of a module that imports nothing: { source, name, calls } on stdin, the answers on stdout.
let text = "";
for await (const piece of process.stdin) text += piece;
const { source, program } = JSON.parse(text);
const module = await import(`data:text/javascript;base64,${Buffer.from(source).toString("base64")}`);
const answer = await new Function("module", `"use strict"; return (async () => { ${program} })();`)(module);
process.stdout.write(JSON.stringify(answer));
