/** `cherryq doctor`: what this machine gives, how fast it is, and what to do about what is missing. */
import { exitCodes } from 'cherryq/contract';
import { command } from './command.ts';
import { formatBytes, renderTable } from './format.ts';
import { note, paintFor, print, printJson, type Io } from './io.ts';
import { loadTrainer } from './packages.ts';
import { createProgress } from './progress.ts';
import { defaultDataDir, serverFlags } from './server.ts';

export const doctorCommand = (io: Io) =>
  command({
    name: 'cherryq doctor',
    summary: 'Check this machine: engines, speed, memory, and what is missing',
    examples: ['cherryq doctor --json', 'CHERRYQ_ENGINE=wasm cherryq doctor'],
    args: {
      'data-dir': serverFlags['data-dir'],
      json: { type: 'boolean', description: 'Print JSON, nothing else' },
    },
    async run(args) {
      const { diagnose } = await loadTrainer();
      const progress = createProgress(io, !args.json);
      const found = await diagnose({
        storeFolder: args['data-dir'] ?? defaultDataDir,
        environment: io.env,
        onProgress: (done, total) => progress.steps('measure', done, total),
      }).finally(() => progress.end());
      const exitCode = found.healthy ? exitCodes.ok : exitCodes.bug;
      if (args.json) {
        printJson(io, found);
        return exitCode;
      }
      const { node, machine, store, gpus, engines, engine, speed, numpy, faults } = found;
      const sets = machine.instructionSets.map((name) => name.toUpperCase()).join(' ');
      const facts: [string, string][] = [
        ['Node.js', `${node.version} on ${machine.platform}`],
        ['processor', [machine.processor, `${machine.cores} cores`, sets].filter((part) => part !== '').join(', ')],
        ['memory', `${formatBytes(machine.memoryBytes)}, ${formatBytes(machine.freeMemoryBytes)} free`],
        ['disk', `${formatBytes(store.freeBytes)} free for ${store.folder}`],
        ...gpus.map(({ name, driver, memoryBytes, computeCapability }): [string, string] => [
          'GPU',
          `${name}, ${formatBytes(memoryBytes)}, compute capability ${computeCapability}, driver ${driver}`,
        ]),
      ];
      if (engine !== null) {
        facts.push(['engine', `${engine.name}: ${engine.reason}`]);
        const { native } = engine;
        if (native !== null)
          facts.push([
            '',
            `TensorFlow ${native.tensorflow} under TensorFlow.js ${native.tfjs}, ${native.threads} threads` +
              `${native.usesGpu ? ', CUDA' : ''}`,
          ]);
      }
      for (const [name, text] of facts) print(io, `${name.padEnd(10)} ${text}`);
      print(io, '');
      const states = engines.map(({ name, state, detail, mend }) => [name, state, detail, mend ?? '']);
      print(io, renderTable(['engine', 'state', '', ''], states, 4));
      print(io, '');
      if (speed.length > 0) {
        const peer = 'version' in numpy ? `NumPy ${numpy.version}` : 'NumPy';
        const rows = speed.map(({ name, unit, ours, numpy: theirs, ratio }) => [
          name,
          unit,
          ours.toPrecision(3),
          theirs?.toPrecision(3) ?? '-',
          ratio?.toFixed(2) ?? '-',
        ]);
        print(io, renderTable(['speed', '', engine?.name ?? '', peer, 'ratio'], rows, 2));
      }
      if ('absent' in numpy) note(io, `No comparison: ${numpy.absent}.`);
      const paint = paintFor(io.stdout, io.env);
      for (const fault of faults) print(io, `${paint.red('fault')}  ${fault}`);
      if (faults.length === 0) print(io, paint.green('All is well.'));
      return exitCode;
    },
  });
