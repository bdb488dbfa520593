/** Entry of the CDK app (cdk.json); the only file of infra that touches `process`. */
import { App } from 'aws-cdk-lib';
import { parseContext } from './context.ts';
import { StorageStack } from './storage-stack.ts';

const app = new App();
try {
  const context = parseContext(app.node.getAllContext());
  new StorageStack(app, `${context.installName}-storage`, { context });
  app.synth();
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
