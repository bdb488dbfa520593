// The SDK's type declarations. Those of the client must not lead to zod, which its users do not have: there every type that
// follows from a schema would silently be `any`. So the contract's types are also written out, in `wire.d.ts`, and the
// client's declarations name that file; `cherryq/contract`, which has the schemas themselves, needs zod. Run in the root:
// `node scripts/sdk-types.mjs <folder>` writes the declarations of `sdk/src` there.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import ts from 'typescript';

const flags = ts.TypeFormatFlags.NoTruncation | ts.TypeFormatFlags.UseSingleQuotesForStringLiteralType;

const diagnosticsHost = {
  getCanonicalFileName: (name) => name,
  getCurrentDirectory: () => process.cwd(),
  getNewLine: () => '\n',
};
const isObject = (type) => (type.flags & ts.TypeFlags.Object) !== 0 || type.isIntersection();

writeTypes(resolve(process.argv[2]));

function writeTypes(outFolder) {
  const { config } = ts.readConfigFile('sdk/tsconfig.types.json', ts.sys.readFile);
  const { options, fileNames } = ts.parseJsonConfigFileContent(
    { ...config, compilerOptions: { ...config.compilerOptions, outDir: outFolder } },
    ts.sys,
    'sdk',
  );
  const program = ts.createProgram(fileNames, { ...options, outDir: outFolder });
  const failures = [...ts.getPreEmitDiagnostics(program), ...program.emit().diagnostics];
  if (failures.length > 0) throw new Error(ts.formatDiagnostics(failures, diagnosticsHost));
  writeFileSync(
    join(outFolder, 'wire.d.ts'),
    wireTypes(
      program,
      fileNames.find((name) => name.endsWith('contract/index.ts')),
    ),
  );
  for (const folder of ['.', 'contract'])
    for (const name of readdirSync(join(outFolder, folder)).filter((each) => each.endsWith('.d.ts'))) {
      const path = join(outFolder, folder, name);
      const own = folder === '.' ? /'\.\/contract\/index\.ts'/g : /(?!)/g;
      const text = readFileSync(path, 'utf8').replace(own, `'./wire.js'`);
      writeFileSync(path, text.replace(/(from |import\()('\.[^']*)\.ts'/g, `$1$2.js'`));
    }
}

/** Every type that the contract exports, with what it is made of written out and the fields' comments kept. */
function wireTypes(program, entry) {
  const checker = program.getTypeChecker();
  const exported = checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(entry)));
  const names = [];
  for (const symbol of exported) {
    const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
    const declaration = target.declarations?.find((each) => ts.isTypeAliasDeclaration(each));
    if (declaration === undefined) continue;
    const head = `${commentOf(target, checker, '')}export type ${symbol.name}`;
    names.push(
      declaration.typeParameters
        ? `${commentOf(target, checker, '')}${declaration.getText()}`
        : `${head} = ${written(checker.getDeclaredTypeOfSymbol(target), checker, declaration, '')};`,
    );
  }
  return `${names.join('\n')}\n`;
}

function written(type, checker, at, indent) {
  const inner = `${indent}  `;
  const deeper = (part) => written(part, checker, at, indent);
  if (type.isUnion() && type.types.some(isObject)) return type.types.map(deeper).join(' | ');
  if (checker.isArrayType(type)) return `(${deeper(checker.getTypeArguments(type)[0])})[]`;
  if (!isObject(type) || type.getCallSignatures().length > 0 || checker.isTupleType(type))
    return checker.typeToString(type, at, flags | ts.TypeFormatFlags.InTypeAlias);
  const fields = checker.getPropertiesOfType(type).map((property) => {
    const isOptional = (property.flags & ts.SymbolFlags.Optional) !== 0;
    const value = written(checker.getTypeOfSymbolAtLocation(property, at), checker, at, inner);
    const name = /^[\w$]+$/.test(property.name) ? property.name : JSON.stringify(property.name);
    return `${commentOf(property, checker, inner)}${inner}${name}${isOptional ? '?' : ''}: ${value};\n`;
  });
  const indexes = checker
    .getIndexInfosOfType(type)
    .map(
      ({ keyType, type: value }) =>
        `${inner}[key: ${checker.typeToString(keyType)}]: ${written(value, checker, at, inner)};\n`,
    );
  return `{\n${[...indexes, ...fields].join('')}${indent}}`;
}

function commentOf(symbol, checker, indent) {
  const text = ts.displayPartsToString(symbol.getDocumentationComment(checker));
  return text === '' ? '' : `${indent}/** ${text.replaceAll('\n', `\n${indent} * `)} */\n`;
}
