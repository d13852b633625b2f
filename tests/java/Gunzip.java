import java.io.FileInputStream;
import java.util.zip.GZIPInputStream;

/** Writes what a gzip file holds to standard output. */
class Gunzip {
    public static void main(String[] arguments) throws Exception {
        try (var plain = new GZIPInputStream(new FileInputStream(arguments[0]))) {
            plain.transferTo(System.out);
        }
        System.out.flush();
    }
}
