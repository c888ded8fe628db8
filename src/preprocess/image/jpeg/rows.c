/* The rows of a JPEG, from the top to the bottom: libjpeg gives them as it decodes, TurboJPEG only all at once.
 *
 * Owns every call into libjpeg's own interface, with what that is told: the same as by TurboJPEG's `tj3Decompress8`, of RGB.
 *
 * libjpeg leaves a call that fails by a jump. Each function here that calls it is also where that jump ends, so that nothing of another
 * language ever lies between. */

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

/* Rows that are decoded before those that are wanted, and not shown: smooth up-sampling looks at the row above. No row of blocks, of all
 * components together, is higher. */
#define ROWS_ABOVE 32

/* Pointers to rows that libjpeg is given at a time. It fills no more than a few. */
#define AT_ONCE 8

struct jpeg_rows {
  struct jpeg_decompress_struct jpeg;
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  jmp_buf failed;
  void (*emit_message)(j_common_ptr, int);
  JSAMPROW unseen;
  int max_scans;
  int stops_at_warning;
  int has_warned;
  /* Of the error, else of the first warning. */
  char message[JMSG_LENGTH_MAX];
};

static void fail(j_common_ptr jpeg) {
  struct jpeg_rows *rows = jpeg->client_data;
  jpeg->err->output_message(jpeg);
  longjmp(rows->failed, 1);
}

static void keep_message(j_common_ptr jpeg) {
  struct jpeg_rows *rows = jpeg->client_data;
  jpeg->err->format_message(jpeg, rows->message);
}

/* Those of a level below zero are warnings. */
static void emit_message(j_common_ptr jpeg, int level) {
  struct jpeg_rows *rows = jpeg->client_data;
  rows->emit_message(jpeg, level);
  if (level < 0) {
    rows->has_warned = 1;
    if (rows->stops_at_warning) longjmp(rows->failed, 1);
  }
}

static void count_scans(j_common_ptr jpeg) {
  struct jpeg_rows *rows = jpeg->client_data;
  if (rows->jpeg.input_scan_number > rows->max_scans) {
    snprintf(rows->message, sizeof rows->message, "Progressive JPEG image has more than %d scans", rows->max_scans);
    longjmp(rows->failed, 1);
  }
}

static int create(struct jpeg_rows *rows) {
  rows->jpeg.err = jpeg_std_error(&rows->errors);
  rows->jpeg.client_data = rows;
  rows->emit_message = rows->errors.emit_message;
  rows->errors.error_exit = fail;
  rows->errors.output_message = keep_message;
  rows->errors.emit_message = emit_message;
  if (setjmp(rows->failed)) return -1;
  jpeg_create_decompress(&rows->jpeg);
  /* The environment may set another. */
  rows->jpeg.mem->max_memory_to_use = 0;
  rows->progress.progress_monitor = count_scans;
  rows->jpeg.progress = &rows->progress;
  return 0;
}

/* Null where there is no memory. */
struct jpeg_rows *jpeg_rows_new(void) {
  struct jpeg_rows *rows = calloc(1, sizeof *rows);
  if (rows != NULL && create(rows) != 0) {
    free(rows);
    return NULL;
  }
  return rows;
}

void jpeg_rows_free(struct jpeg_rows *rows) {
  jpeg_destroy_decompress(&rows->jpeg);
  free(rows);
}

/* The functions below return 0, or -1 where they fail; after that only the next two and `jpeg_rows_free` may be called. */

const char *jpeg_rows_message(const struct jpeg_rows *rows) { return rows->message; }

int jpeg_rows_has_warned(const struct jpeg_rows *rows) { return rows->has_warned; }

/* Whether the last row has been decoded. */
int jpeg_rows_at_end(const struct jpeg_rows *rows) {
  return rows->jpeg.output_height > 0 && rows->jpeg.output_scanline >= rows->jpeg.output_height;
}

/* Reads up to the first row, and all that comes before the last where there is more than one scan. Of the columns from `left` on, `width`
 * are wanted; those that will come are written there: they may begin before. */
int jpeg_rows_start(struct jpeg_rows *rows, const unsigned char *bytes, size_t length, int max_scans,
                    int stops_at_warning, unsigned denominator, unsigned *left, unsigned *width) {
  struct jpeg_decompress_struct *jpeg = &rows->jpeg;
  rows->max_scans = max_scans;
  rows->stops_at_warning = stops_at_warning;
  if (setjmp(rows->failed)) return -1;
  jpeg_mem_src(jpeg, bytes, length);
  jpeg_read_header(jpeg, TRUE);
  jpeg->out_color_space = JCS_EXT_RGB;
  jpeg->do_fancy_upsampling = TRUE;
  jpeg->dct_method = JDCT_ISLOW;
  jpeg->scale_num = 1;
  jpeg->scale_denom = denominator;
  jpeg_start_decompress(jpeg);
  /* What smoothes blocks of which there are not all scans yet looks at its neighbours, and finds none at an edge. */
  if (jpeg_has_multiple_scans(jpeg)) {
    *left = 0;
    *width = jpeg->output_width;
  } else if (*left > 0 || *width < jpeg->output_width) {
    jpeg_crop_scanline(jpeg, left, width);
  }
  rows->unseen = jpeg->mem->alloc_sarray((j_common_ptr)jpeg, JPOOL_IMAGE, jpeg->output_width * 3, 1)[0];
  return 0;
}

/* libjpeg gives none where there are no more of them, which nobody asks for: better an error than a loop without end. */
static unsigned some(struct jpeg_rows *rows, unsigned given) {
  if (given == 0) {
    snprintf(rows->message, sizeof rows->message, "fewer rows than its header says");
    longjmp(rows->failed, 1);
  }
  return given;
}

static void read_rows(struct jpeg_rows *rows, unsigned char *out, size_t pitch, unsigned count) {
  while (count > 0) {
    JSAMPROW pointers[AT_ONCE];
    unsigned i, done, at_once = count < AT_ONCE ? count : AT_ONCE;
    for (i = 0; i < at_once; i++) pointers[i] = out + i * pitch;
    done = some(rows, jpeg_read_scanlines(&rows->jpeg, pointers, at_once));
    out += done * pitch;
    count -= done;
  }
}

/* Decodes the next rows. */
int jpeg_rows_read(struct jpeg_rows *rows, unsigned char *out, size_t pitch, unsigned count) {
  if (setjmp(rows->failed)) return -1;
  read_rows(rows, out, pitch, count);
  return 0;
}

/* Whether rows may be passed over with less work than it takes to decode them. `jpeg_skip_scanlines` is made for rows that come in groups of
 * two at most; of several scans all codes have been read by then, and there is little to save. */
static int may_skip(struct jpeg_rows *rows) {
  return rows->jpeg.max_v_samp_factor <= 2 && !jpeg_has_multiple_scans(&rows->jpeg);
}

static void pass_over(struct jpeg_rows *rows, unsigned count, unsigned decoded) {
  if (count > decoded && may_skip(rows)) {
    jpeg_skip_scanlines(&rows->jpeg, count - decoded);
    count = decoded;
  }
  while (count > 0) count -= some(rows, jpeg_read_scanlines(&rows->jpeg, &rows->unseen, 1));
}

/* Passes over the next rows, with less work. */
int jpeg_rows_skip(struct jpeg_rows *rows, unsigned count) {
  if (setjmp(rows->failed)) return -1;
  pass_over(rows, count, ROWS_ABOVE);
  return 0;
}

/* Passes over the other rows, the last of which is decoded lest libjpeg leave out what it is made of, and reads on to the end. */
int jpeg_rows_finish(struct jpeg_rows *rows) {
  if (setjmp(rows->failed)) return -1;
  pass_over(rows, rows->jpeg.output_height - rows->jpeg.output_scanline, 1);
  jpeg_finish_decompress(&rows->jpeg);
  return 0;
}
