// The reference of the SDK, docs/reference.md, made of the declarations that the package ships and their comments: `npm run
// reference`, run in the root, writes it; `node scripts/reference.mjs --check` says whether it is what the sources give.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import prettier from 'prettier';
import ts from 'typescript';

const page = 'docs/reference.md';
const folder = mkdtempSync(join(tmpdir(), 'cherryq-reference-'));
const sources = new Map();

function source(name) {
  if (!sources.has(name)) {
    const text = readFileSync(join(folder, `${name}.d.ts`), 'utf8');
    sources.set(name, ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true));
  }
  return sources.get(name);
}

/** Statements of a module by the name that they declare. */
function declarationsOf(name) {
  const declared = source(name).statements.filter((each) => each.name !== undefined);
  return new Map(declared.map((each) => [each.name.text, each]));
}

const isExported = (node) => node.modifiers?.some((each) => each.kind === ts.SyntaxKind.ExportKeyword) ?? false;

/** What a module exports by name, found in the module that declares it. */
function exportsOf(name) {
  const own = [...declarationsOf(name)].filter(([, node]) => isExported(node));
  const passedOn = source(name)
    .statements.filter(ts.isExportDeclaration)
    .filter((each) => each.moduleSpecifier);
  return new Map([
    ...own,
    ...passedOn.flatMap(({ moduleSpecifier, exportClause }) => {
      const from = moduleSpecifier.text.replace(/^\.\/|\.js$/g, '');
      return exportClause.elements.map((each) => [each.name.text, declarationsOf(from).get(each.name.text)]);
    }),
  ]);
}

function reference() {
  const [client, node] = [exportsOf('index'), exportsOf('node')];
  const wire = declarationsOf('wire');
  const root = client.get('CherryQ');
  const resources = root.members.filter((each) => ts.isPropertyDeclaration(each) && classOf(each) !== undefined);
  const sections = [
    ...resources.map(resourceSection),
    ...[...client].filter(([, each]) => ts.isFunctionDeclaration(each)).map(([, each]) => functionSection(each, '###')),
  ];
  const nodeFunctions = [...node.values()].filter((each) => ts.isFunctionDeclaration(each));
  const errors = [...client.values()].filter((each) => ts.isClassDeclaration(each) && /Error$/.test(each.name.text));
  const exported = [...node, ...client].filter(([name, each]) => isType(each) && wire.get(name) !== each);
  const said = [...sections, ...nodeFunctions.map(signatureOf), ...exported.map(([, each]) => each.getText())];
  // A type of an argument, such as `CancelOptions`, need not be exported.
  const unexported = [...sources.keys()]
    .filter((name) => name !== 'wire')
    .flatMap((name) => [...declarationsOf(name)])
    .filter(([name, each]) => isType(each) && namesIn(said).has(name) && !client.has(name) && !node.has(name));
  const options = [...new Map([...exported, ...unexported])];
  const used = namesIn([...said, ...unexported.map(([, each]) => each.getText())]);
  const known = new Set([...wire.keys()].filter((name) => used.has(name) || client.has(name)));
  const text = [
    '# Reference of the SDK',
    `Made by \`npm run reference\` from the declarations that the package ships. How it is used: [sdk.md](sdk.md); what goes over the wire: [api.md](api.md).`,
    '## cherryq',
    described(root),
    fence(`new CherryQ(options?: ClientOptions)`),
    ...sections,
    '## cherryq/node',
    `What needs folders and files. Its \`CherryQ\` is the client above with the methods ${methodsOf(node.get('CherryQ'))
      .map(({ name }) => `[\`${name.text}\`](#${name.text})`)
      .join(', ')}, which are the functions of these names without their first argument.`,
    ...nodeFunctions.map((each) => functionSection(each, '###')),
    '## Errors',
    described(errors.find((each) => each.name.text === 'CherryQError')),
    table(
      ['class', 'when'],
      errors
        .filter((each) => each.name.text !== 'CherryQError')
        .map((each) => [`\`${each.name.text}\``, inLine(commentOf(each).text)]),
    ),
    'Each has these fields:',
    errorFields(),
    '## Options and values',
    ...options.filter(([name]) => name !== 'ErrorDetails').map(([name, each]) => typeSection(name, each)),
    '## What goes over the wire',
    'What the settings of `scheme` and `training` mean: [training.md](training.md#settings).',
    ...[...wire].filter(([name]) => known.has(name)).map(([name, each]) => wireSection(name, each, wire, known)),
  ];
  return `${linked(text, new Set([...options.map(([name]) => name), ...known])).join('\n\n')}\n`;
}

const isType = (node) => ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node);
const namesIn = (texts) => new Set(texts.flatMap((each) => each.match(/\b[A-Z]\w+/g) ?? []));
const fence = (code) => `\`\`\`ts\n${code}\n\`\`\``;
const inLine = (text) => text.replace(/\s+/g, ' ').trim();

function table(head, rows) {
  const cells = (row) => `| ${row.map((each) => each.replaceAll('|', '\\|')).join(' | ')} |`;
  return [head, head.map(() => '---'), ...rows].map(cells).join('\n');
}

/** The class of a property of the client; none of `baseUrl`. */
function classOf(property) {
  const [, name] = /^(\w+)/.exec(property.type.getText());
  const from = source('index').statements.find(
    (each) =>
      ts.isImportDeclaration(each) &&
      each.importClause?.namedBindings?.elements.some((element) => element.name.text === name),
  );
  return from && declarationsOf(from.moduleSpecifier.text.replace(/^\.\/|\.js$/g, '')).get(name);
}

const methodsOf = (node) => node.members.filter((each) => ts.isMethodDeclaration(each));

/** `client.jobs`, or whichever it is, with its methods; those of the class that it extends come first. */
function resourceSection(property) {
  const name = property.name.text;
  const own = classOf(property);
  const [, base] = /extends (\w+)/.exec(own.heritageClauses?.[0]?.getText() ?? '') ?? [];
  const inherited = base ? declarationsOf(own.getSourceFile().fileName).get(base) : undefined;
  const methods = [...(inherited ? methodsOf(inherited) : []), ...methodsOf(own)];
  const [, argument] = /<(\w+)>/.exec(inherited ? own.heritageClauses[0].getText() : property.type.getText()) ?? [];
  return [
    `### client.${name}`,
    inLine(commentOf(own).text.replace(/^`client\.\w+`(?: and `client\.\w+`)?[:.]?\s*/, '')).replace(/^./, (letter) =>
      letter.toUpperCase(),
    ),
    ...methods.map((each) => functionSection(each, '####', `${name}.`)),
  ]
    .filter((each) => each !== '')
    .map((each) => (argument ? withArgument(each, argument) : each))
    .join('\n\n');
}

/** What `Upload`, the parameter of a class, stands for. */
const withArgument = (text, argument) =>
  text
    .replaceAll(/Upload extends (\w+) \? (.+?) : (\w+)/g, (_, name, yes, no) => (name === argument ? yes : no))
    .replaceAll(/\bUpload\b/g, argument);

const functionSection = (node, level, owner = '') =>
  [`${level} ${owner}${node.name.text}`, fence(signatureOf(node)), described(node)].filter((each) => each).join('\n\n');

/** As it is called; an argument that is taken apart is called `options`. */
function signatureOf(node) {
  const parameters = node.parameters.map((each) => {
    const name = ts.isIdentifier(each.name) ? each.name.text : 'options';
    return `${name}${each.questionToken ? '?' : ''}: ${inLine(each.type.getText())}`;
  });
  const signature = `${node.name.text}(${parameters.join(', ')}): ${inLine(node.type.getText())}`;
  return signature.replaceAll(/\bClient\b/g, 'CherryQ');
}

/** A comment and its tags, which may stand on one line. */
function commentOf(node) {
  const raw = (ts.getLeadingCommentRanges(node.getSourceFile().text, node.pos) ?? [])
    .map(({ pos, end }) => node.getSourceFile().text.slice(pos, end))
    .filter((each) => each.startsWith('/**'))
    .at(-1);
  const plain = (raw ?? '').replace(/^\/\*\*[ ]?|\s*\*\/$/g, '').replace(/^[ \t]*\* ?/gm, '');
  const [text, ...tags] = plain.split(/(?:^|\s{2,}|\n)@(?=param|returns|throws|example|see)/);
  return {
    text: text.trim(),
    tags: tags.map((each) => {
      const [, name, content] = /^(\w+)\s*([^]*)$/.exec(each);
      return { name, content: content.trimEnd() };
    }),
  };
}

/** A comment as prose, a list and an example. */
function described(node) {
  const { text, tags } = commentOf(node);
  const said = {
    param: (content) => content.replace(/^(\S+)\s+/, '`$1`: '),
    returns: (content) => `Returns ${content}`,
    throws: (content) => `Throws ${content}`,
    see: (content) => `As [\`${content}\`](#${content})`,
  };
  const list = tags.filter(({ name }) => name in said).map(({ name, content }) => `- ${inLine(said[name](content))}`);
  const examples = tags.filter(({ name }) => name === 'example').map(({ content }) => fence(content));
  return [inLine(text), list.join('\n'), ...examples].filter((each) => each !== '').join('\n\n');
}

function fieldTable(members) {
  const rows = members
    .filter((each) => each.name !== undefined)
    .map((each) => {
      const type = ts.isMethodSignature(each)
        ? inLine(each.getText().slice(each.name.getText().length)).replace(/;$/, '')
        : inLine(each.type.getText());
      return [`\`${each.name.getText()}${each.questionToken ? '?' : ''}\``, `\`${type}\``, inLine(described(each))];
    });
  return table(['field', 'type', 'meaning'], rows);
}

/** The fields of every error, with what is said of them where they are given. */
function errorFields() {
  const fields = declarationsOf('errors').get('CherryQError').members.filter(ts.isPropertyDeclaration);
  const details = declarationsOf('errors').get('ErrorDetails').members;
  const rows = fields.map((field) => {
    const detail = details.find((each) => each.name.text === field.name.text);
    return [`\`${field.name.text}\``, `\`${field.type.getText()}\``, detail ? inLine(described(detail)) : ''];
  });
  return table(['field', 'type', 'meaning'], rows);
}

function typeSection(name, node) {
  const heading = `### ${name}`;
  if (ts.isTypeAliasDeclaration(node))
    return [heading, described(node), fence(`type ${name} = ${node.type.getText()};`)].filter(Boolean).join('\n\n');
  const extended = node.heritageClauses?.[0]?.types.map((each) => `\`${each.getText()}\``).join(', ');
  return [
    heading,
    described(node),
    extended ? `What ${extended} has${node.members.length > 0 ? ', and:' : '.'}` : '',
    node.members.length > 0 ? fieldTable(node.members) : '',
  ]
    .filter((each) => each !== '')
    .join('\n\n');
}

/** A type of the contract, whose parts that have names of their own are called by them. */
function wireSection(name, node, wire, known) {
  const named = new Map(
    [...wire]
      .filter(([each, { type, typeParameters }]) => each !== name && known.has(each) && type && !typeParameters)
      .map(([each, { type }]) => [withoutComments(type), each])
      .filter(([text]) => text.length > 30),
  );
  const parameters = node.typeParameters ? `<${node.typeParameters.map((each) => each.getText()).join(', ')}>` : '';
  const code = `type ${name}${parameters} = ${withNames(node.type, named)};`;
  return [`### ${name}`, described(node), fence(code)].filter(Boolean).join('\n\n');
}

const withoutComments = (node) => inLine(node.getText().replace(/\/\*\*[^]*?\*\//g, ''));

function withNames(node, named) {
  const text = node.getSourceFile().text;
  let written = '';
  let at = node.getStart();
  ts.forEachChild(node, function visit(child) {
    const name = ts.isTypeNode(child) ? named.get(withoutComments(child)) : undefined;
    if (name === undefined) return ts.forEachChild(child, visit);
    written += text.slice(at, child.getStart()) + name;
    at = child.getEnd();
  });
  // The compiler's order of numbers is that in which it has met them.
  const inOrder = (numbers) =>
    numbers
      .split(' | ')
      .toSorted((a, b) => a - b)
      .join(' | ');
  return (written + text.slice(at, node.getEnd()))
    .replaceAll(/\((\w+)\)\[\]/g, '$1[]')
    .replaceAll(/\b\d+(?: \| \d+)+\b/g, inOrder);
}

/** After each signature the types that it names, as links. */
function linked(sections, known) {
  return sections.map((section) =>
    section.replaceAll(/^```ts\n(\w+\(.*)\n```$/gm, (code, signature) => {
      const names = [...namesIn([signature])].filter((name) => known.has(name));
      const links = names.map((name) => `[\`${name}\`](#${name.toLowerCase()})`).join(', ');
      return links === '' ? code : `${code}\n\nTypes: ${links}`;
    }),
  );
}

try {
  execFileSync(process.execPath, ['scripts/sdk-types.mjs', folder], { stdio: 'inherit' });
  const text = await prettier.format(reference(), { ...(await prettier.resolveConfig(page)), parser: 'markdown' });
  if (!process.argv.includes('--check')) writeFileSync(page, text);
  else if (text !== readFileSync(page, 'utf8')) {
    const [made, kept] = [text, readFileSync(page, 'utf8')].map((each) => each.split('\n'));
    const line = made.findIndex((each, index) => each !== kept[index]) + 1;
    console.error(`${page}:${line || made.length}: is not what the sources give; run \`npm run reference\``);
    process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
